/* backend.c: making the CPU backend. Its scratch is sized here, once: per thread
 * what attention or an FFN tile needs, and for all together the hidden rows of a
 * block of tokens. Memory that alloc() hands out stands in a list and goes with
 * the backend. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cpu/cpu.h"

enum { ALIGN = 64, HUGE_PAGE = 2 << 20 };

/* A header before each piece of memory, as wide as the alignment. */
struct cpu_memory {
    _Alignas(ALIGN) struct cpu_memory *next;
};

void *cpu_alloc(moe_backend *base, size_t bytes)
{
    cpu_backend *b = (cpu_backend *)base;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGN;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    size_t whole = (bytes + sizeof(struct cpu_memory) + align - 1) / align * align;
    struct cpu_memory *m = aligned_alloc(align, whole);
    if (!m)
        return NULL;
    /* Rows of scratch lie apart: small pages would cost a TLB miss each. */
    if (align == HUGE_PAGE)
        madvise(m, whole, MADV_HUGEPAGE);
    m->next = b->memory;
    b->memory = m;
    return m + 1;
}

float *cpu_thread_scratch(const cpu_backend *b, int thread)
{
    return b->thread_scratch + (size_t)thread * b->thread_floats;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool alloc_floats(cpu_backend *b, float **out, size_t n)
{
    *out = cpu_alloc(&b->base, n * sizeof **out);
    return *out != NULL;
}

static bool alloc_ints(cpu_backend *b, int32_t **out, size_t n)
{
    *out = cpu_alloc(&b->base, n * sizeof **out);
    return *out != NULL;
}

static bool create_thread_scratch(cpu_backend *b)
{
    size_t floats = cpu_attention_floats(&b->shape);
    floats = larger(floats, CPU_DENSE_TOKENS * MOE_W2_PANEL);
    floats = larger(floats, (size_t)b->shape.d_model);
    if (b->kernels->add_group_i8)
        floats = larger(floats, (CPU_GROUP_TOKENS * CPU_GROUP_EXPERTS + CPU_PAIR_ROWS) *
                                    MOE_EXPERT_SIZE);
    b->thread_floats = (floats + 1023) / 1024 * 1024 + 16; /* not a multiple of 4096 bytes */
    return alloc_floats(b, &b->thread_scratch, b->thread_floats * (size_t)b->n_threads);
}

static bool create_ffn_scratch(cpu_backend *b)
{
    size_t experts = (size_t)b->shape.n_experts;
    size_t tokens = smaller((size_t)b->shape.max_tokens, CPU_FFN_TOKENS);
    size_t sparse = smaller((size_t)b->shape.max_tokens, CPU_SPARSE_TOKENS);
    b->max_pairs = tokens * experts;
    size_t tasks = b->max_pairs / CPU_PAIR_ROWS + experts + 1;
    /* Enough parts for one row each, of a block too small for larger ones. */
    size_t cuts = larger(CPU_OUT_TOKENS, sparse / 16) + 1;
    /* Dense planes are whole, so experts count up to a multiple of four. */
    size_t hidden = tokens * (experts + CPU_PLANE_EXPERTS - 1) * MOE_EXPERT_SIZE;
    /* Rows of ffn_groups.c, whole groups and a step: up to four times the tokens of as much
     * narrower values, and 16 more to read. */
    size_t groups = (experts + CPU_GROUP_EXPERTS - 1) / CPU_GROUP_EXPERTS;
    hidden = larger(hidden, (tokens + 16) * (groups * CPU_GROUP_EXPERTS * MOE_EXPERT_SIZE +
                                             4 * CPU_GROUP_STEP));
    size_t inner = (size_t)b->shape.d_head * (size_t)b->shape.n_heads;
    size_t widest = larger((size_t)b->shape.d_model, inner);
    /* Half the bytes of fp32, unless that is copied too. */
    if (!cpu_crowds((size_t)b->shape.d_model) && !cpu_crowds(inner))
        widest /= 2;
    b->ld_low = (widest + 16) / 16 * 16;
    if (cpu_crowds(b->ld_low))
        b->ld_low += 16;
    return alloc_floats(b, &b->hidden, hidden) &&
           alloc_floats(b, &b->hidden_scale, b->max_pairs) &&
           alloc_floats(b, &b->group_scale, groups * sparse) &&
           alloc_floats(b, &b->low_scale, (size_t)b->shape.max_tokens) &&
           alloc_ints(b, (int32_t **)&b->low_x, (size_t)b->shape.max_tokens * b->ld_low) &&
           alloc_ints(b, &b->row, b->max_pairs) &&
           alloc_ints(b, &b->row_bound, experts + 1) &&
           alloc_ints(b, &b->cut, cuts * experts) &&
           alloc_ints(b, &b->task_expert, tasks) && alloc_ints(b, &b->task_pair, tasks);
}

static bool create_router_scratch(cpu_backend *b)
{
    size_t width = (size_t)b->shape.router_width;
    return alloc_floats(b, &b->pair_cut, (size_t)b->shape.max_tokens) &&
           alloc_floats(b, &b->router_x, CPU_ROUTER_ROWS * (size_t)b->shape.d_model) &&
           alloc_floats(b, &b->router_hidden, CPU_ROUTER_ROWS * width);
}

static void destroy(moe_backend *base)
{
    cpu_backend *b = (cpu_backend *)base;
    if (!b)
        return;
    while (b->memory) {
        struct cpu_memory *next = b->memory->next;
        free(b->memory);
        b->memory = next;
    }
    free(b);
}

static const void *upload(moe_backend *b, const void *host, size_t bytes)
{
    (void)b;
    (void)bytes;
    return host;
}

static void put(moe_backend *b, void *to, const void *host, size_t bytes)
{
    (void)b;
    if (bytes)
        memcpy(to, host, bytes);
}

static void download(moe_backend *b, void *host, const void *from, size_t bytes)
{
    (void)b;
    if (bytes)
        memcpy(host, from, bytes);
}

static const moe_backend_ops cpu_ops = {
    .name = "cpu",
    .destroy = destroy,
    .alloc = cpu_alloc,
    .upload = upload,
    .put = put,
    .download = download,
    .embed = cpu_embed,
    .linear = cpu_linear,
    .attention = cpu_attention,
    .add_norm = cpu_add_norm,
    .pre_norm = cpu_pre_norm,
    .gather_rows = cpu_gather_rows,
    .add_shift = cpu_add_shift,
    .router_scores = cpu_router_scores,
    .expert_mass = cpu_expert_mass,
    .select = cpu_select,
    .ffn = cpu_ffn,
    .measure_plan = cpu_measure_plan,
    .plan = cpu_plan,
};

/* Limits keep every size below far from overflow; models are checked for
 * smaller ones when they are opened. */
static moe_status check_shape(const moe_backend_shape *s, moe_error *err)
{
    const struct { const char *name; int value, least; } field[] = {
        {"tokens of a call", s->max_tokens, 1}, {"tokens of a sequence", s->max_seq, 1},
        {"width", s->d_model, 1}, {"heads", s->n_heads, 1},
        {"experts", s->n_experts, 1}, {"router width", s->router_width, 0},
    };
    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        if (field[i].value < field[i].least || field[i].value > 1 << 20)
            return moe_fail(err, MOE_E_ARGUMENT, "CPU backend: %s: expected %d to %d, found %d",
                            field[i].name, field[i].least, 1 << 20, field[i].value);
    if (s->d_head < 0 || s->d_head > 1 << 16)
        return moe_fail(err, MOE_E_ARGUMENT, "CPU backend: width of a head: expected 0 to %d, "
                        "found %d", 1 << 16, s->d_head);
    if (!s->d_head && s->d_model % s->n_heads)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "CPU backend: width: expected a multiple of %d heads, found %d",
                        s->n_heads, s->d_model);
    return MOE_OK;
}

moe_status moe_cpu_backend(moe_pool *pool, const moe_backend_shape *shape,
                           moe_backend **out, moe_error *err)
{
    *out = NULL;
    const char *isa = getenv("MOE_ISA");
    const cpu_kernels *kernels = cpu_kernels_find(isa);
    if (!kernels)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "MOE_ISA: expected c, avx2, avx2vnni, avx512, avx512vnni, "
                        "avx512bf16 or avx512amx as this machine has it, "
                        "found '%s'", isa);
    moe_status status = check_shape(shape, err);
    if (status != MOE_OK)
        return status;
    cpu_backend *b = calloc(1, sizeof *b);
    if (!b)
        return moe_fail(err, MOE_E_MEMORY, "CPU backend: out of memory");
    b->base = (moe_backend){.ops = &cpu_ops, .isa = kernels->isa};
    b->pool = pool;
    b->n_threads = moe_pool_threads(pool);
    b->kernels = kernels;
    b->shape = *shape;
    cpu_ffn_plan_default(b);
    if (!create_thread_scratch(b) || !create_ffn_scratch(b) || !create_router_scratch(b)) {
        destroy(&b->base);
        return moe_fail(err, MOE_E_MEMORY,
                        "CPU backend: out of memory for %d tokens, %d experts",
                        shape->max_tokens, shape->n_experts);
    }
    *out = &b->base;
    return MOE_OK;
}
