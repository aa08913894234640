/* allowed.c: how many threads this process may use. A container sees all of the
 * host's processors; what it may use of them is in the affinity mask and in the
 * CPU quota of its cgroup or of any cgroup above. More threads than that make
 * every region wait for a thread that is being throttled. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/pool.h"

enum { PATH_BYTES = 4096 };

static int affinity_threads(void)
{
    /* The kernel refuses a mask smaller than its own: try larger ones. */
    for (int cpus = 1024; cpus <= 1 << 18; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        if (!set)
            return 1;
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        int failed = sched_getaffinity(0, bytes, set);
        int n = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (n > 0)
            return n;
    }
    return 1;
}

/* First line of dir/name, cut at 63 characters. */
static bool read_line(const char *dir, const char *name, char line[64])
{
    char path[2 * PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, 64, f) != NULL;
    fclose(f);
    return ok;
}

static int ceil_share(double quota, double period, int limit)
{
    if (!(quota > 0) || !(period > 0))
        return limit; /* "max", -1 or nonsense: no quota */
    double n = quota / period;
    if (n >= limit)
        return limit;
    return n <= 1 ? 1 : (int)n + (n > (int)n);
}

/* The quota of one cgroup folder, version 2 or 1; limit if it has none. */
static int folder_threads(const char *dir, int limit)
{
    char line[64], second[64];
    double quota = 0, period = 0;
    if (read_line(dir, "cpu.max", line)) {
        if (sscanf(line, "%lf %lf", &quota, &period) != 2)
            return limit;
    } else if (read_line(dir, "cpu.cfs_quota_us", line) &&
               read_line(dir, "cpu.cfs_period_us", second)) {
        quota = strtod(line, NULL);
        period = strtod(second, NULL);
    }
    return ceil_share(quota, period, limit);
}

/* The cgroup at root/path and every one above it, down to root itself. */
static int quota_threads(const char *root, const char *path, int limit)
{
    char dir[PATH_BYTES];
    int n = snprintf(dir, sizeof dir, "%s%s", root, path);
    if (n < 0 || n >= (int)sizeof dir)
        return limit;
    size_t root_bytes = strlen(root);
    for (;;) {
        limit = folder_threads(dir, limit);
        char *slash = strrchr(dir + root_bytes, '/');
        if (!slash)
            return limit;
        *slash = '\0';
    }
}

/* Whether a comma-separated list of controllers has `name`. */
static bool lists_controller(const char *list, const char *name)
{
    size_t bytes = strlen(name);
    while (*list) {
        size_t item = strcspn(list, ",");
        if (item == bytes && memcmp(list, name, bytes) == 0)
            return true;
        list += item + (list[item] == ',');
    }
    return false;
}

int pool_allowed_threads(const char *cgroup_root, const char *self_cgroup)
{
    int limit = affinity_threads();
    char line[PATH_BYTES], v1_root[PATH_BYTES];
    snprintf(v1_root, sizeof v1_root, "%s/cpu", cgroup_root);
    /* In a container the process's own path is often not mounted; the roots
     * then show the container's quota. */
    limit = quota_threads(cgroup_root, "", limit);
    limit = quota_threads(v1_root, "", limit);
    FILE *f = fopen(self_cgroup, "re");
    if (!f)
        return limit;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *path = NULL;
        if (controllers && (path = strchr(controllers + 1, ':')) != NULL) {
            *path++ = '\0';
            controllers++;
            if (*controllers == '\0')
                limit = quota_threads(cgroup_root, path, limit);
            else if (lists_controller(controllers, "cpu"))
                limit = quota_threads(v1_root, path, limit);
        }
    }
    fclose(f);
    return limit;
}
