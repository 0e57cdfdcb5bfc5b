/*  Tensors: read any container (.npy, .npz, .safetensors, .pt), write any.

        cc -O2 -fopenmp -I. examples/tensors.c -lm -o tensors && ./tensors [IN OUT]

    Lists the tensors of IN and writes them as float32 to OUT, the kind by its ending (.npy holds
    one tensor). Nothing in a .pt is executed. Without arguments it writes a small file and reads it
    back. Prints
        bias                     F32 [3]
        weight                   F32 [2,3]
        tensors_copy.npz: 2 tensors
*/
#define SAE_IMPLEMENTATION
#include "sae.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 256 };

static sae_result write_own(sae_context *ctx, const char *path) {
    static const float weight[6] = { 1, 2, 3, 4, 5, 6 }, bias[3] = { 0.5f, 0, -0.5f };
    sae_tensor tensors[2] = {
        { .name = "weight", .dtype = SAE_F32, .ndim = 2, .shape = { 2, 3 }, .stride = { 3, 1 },
          .data = weight },
        { .name = "bias", .dtype = SAE_F32, .ndim = 1, .shape = { 3 }, .stride = { 1 },
          .data = bias }
    };
    return sae_tensor_file_write(ctx, path, tensors, 2);
}

static size_t num_elements(const sae_tensor *t) {
    size_t count = 1;
    for (size_t d = 0; d < t->ndim; d++) count *= (size_t)t->shape[d];
    return count;
}

static void show(const sae_tensor *t) {
    printf("%-24s %s [", t->name[0] ? t->name : "(array)", sae_dtype_name(t->dtype));
    for (size_t d = 0; d < t->ndim; d++) printf("%s%.0f", d ? "," : "", (double)t->shape[d]);
    printf("]\n");
}

/* The file is mapped, its tensors may be transposed, of another type and not aligned: all of that
   sae_tensor_to_f32 sees to. */
static sae_result copy(sae_context *ctx, sae_tensor_file *file, const char *path) {
    size_t count = sae_tensor_file_count(file), i;
    sae_tensor copies[MOST];
    sae_result result = sae_tensor_file_check(file, NULL); /* the checksums, where there are some */
    if (count > MOST) count = MOST;
    for (i = 0; i < count && result == SAE_OK; i++) {
        size_t elements = num_elements(sae_tensor_file_get(file, i));
        float *data = (float *)malloc((elements + 1) * sizeof *data);
        if (!data) {
            result = SAE_ERR_OUT_OF_MEMORY;
            break;
        }
        copies[i] = *sae_tensor_file_get(file, i);
        show(&copies[i]);
        sae_tensor_to_f32(&copies[i], data);
        copies[i].dtype = SAE_F32;
        copies[i].data = data;
    }
    if (result == SAE_OK) result = sae_tensor_file_write(ctx, path, copies, count);
    if (result == SAE_OK) printf("%s: %zu tensors\n", path, count);
    while (i) free((void *)copies[--i].data);
    return result;
}

int main(int argc, char **argv) {
    bool given = argc > 2;
    const char *in = given ? argv[1] : "tensors_own.safetensors";
    const char *out = given ? argv[2] : "tensors_copy.npz";
    sae_context *ctx = NULL;
    sae_tensor_file *file = NULL;
    sae_result result = SAE_OK;

    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    if (!given) result = write_own(ctx, in);
    if (result == SAE_OK) result = sae_tensor_file_open(ctx, in, &file);
    if (result == SAE_OK) result = copy(ctx, file, out);
    if (result != SAE_OK) fprintf(stderr, "%s: %s\n", sae_result_name(result), sae_error(ctx));
    sae_tensor_file_close(file);
    if (!given) remove(in), remove(out);
    sae_context_destroy(ctx);
    return result == SAE_OK ? 0 : 1;
}
