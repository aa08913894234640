/* fuzz_safetensors.c: any bytes as a safetensors file. What is accepted must
 * tile the file: every tensor's bytes are read. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/model/dtype.h"
#include "engine/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    st_header h;
    moe_error err;
    if (st_header_parse("fuzz", data, size, size, &h, &err))
        return 0;
    size_t sum = 0;
    for (int i = 0; i < h.n; i++) {
        const st_tensor *t = &h.tensors[i];
        if (t->bytes > size || h.offset[i] > size - t->bytes)
            abort();
        for (size_t j = 0; j < t->bytes; j++)
            sum += data[h.offset[i] + j];
        if (t->dtype <= MOE_BF16)
            sum += dtype_first_not_finite(t->dtype, data + h.offset[i],
                                          t->bytes / moe_dtype_bytes(t->dtype));
    }
    st_header_free(&h);
    return sum == SIZE_MAX; /* keeps the sum alive */
}
