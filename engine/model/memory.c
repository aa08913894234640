/* memory.c: arrays of an open model, cut from big blocks and freed together. */
#include "engine/model/memory.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 64, HUGE_PAGE = 2 << 20, BLOCK_BYTES = 8 << 20 };

void *memory_alloc(size_t bytes)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : ALIGN;
    if (bytes > SIZE_MAX - align)
        return NULL;
    bytes = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, bytes ? bytes : align);
    if (p && align == HUGE_PAGE)
        madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

struct memory_block {
    struct memory_block *next;
    char *data;
    size_t used, size;
};

static struct memory_block *new_block(moe_model_memory *m, size_t size)
{
    struct memory_block *b = malloc(sizeof *b);
    char *data = memory_alloc(size);
    if (!b || !data) {
        free(b);
        free(data);
        return NULL;
    }
    *b = (struct memory_block){.next = m->blocks, .data = data, .size = size};
    m->blocks = b;
    m->owned_bytes += size;
    return b;
}

void *memory_take(moe_model_memory *m, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    struct memory_block *b = m->blocks;
    if (!b || b->size - b->used < bytes)
        b = new_block(m, bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES);
    if (!b)
        return NULL;
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

float *memory_floats(moe_model_memory *m, size_t n)
{
    return n > SIZE_MAX / sizeof(float) ? NULL : memory_take(m, n * sizeof(float));
}

void memory_free(moe_model_memory *m)
{
    while (m->blocks) {
        struct memory_block *next = m->blocks->next;
        free(m->blocks->data);
        free(m->blocks);
        m->blocks = next;
    }
    safetensors_close(m->files);
    config_free(&m->config);
    free(m->layers);
    free(m->dir);
    free(m);
}
