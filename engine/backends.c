/* backends.c: which backend an engine runs on. */
#include <string.h>

#include "engine/backend.h"

static const char *const names[] = {
    [MOE_BACKEND_AUTO] = "auto", [MOE_BACKEND_CPU] = "cpu", [MOE_BACKEND_CUDA] = "cuda",
};

const char *moe_backend_name(moe_backend_kind k)
{
    return names[k];
}

bool moe_backend_find(const char *name, moe_backend_kind *out)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (moe_backend_kind)i;
            return true;
        }
    return false;
}

moe_status backend_create(moe_backend_kind kind, moe_pool *pool,
                          const moe_backend_shape *shape, moe_backend **out,
                          moe_error *err)
{
    *out = NULL;
    if (kind == MOE_BACKEND_CUDA)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "backend cuda: this build has none, expected auto or cpu");
    return moe_cpu_backend(pool, shape, out, err);
}
