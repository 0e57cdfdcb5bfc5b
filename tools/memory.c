/* sae: what a run takes of the machine's memory, said before it begins. */
#if defined(_WIN32)
#define SIZE SIZE_of_windows /* a kind of option here */
#include <windows.h>
#undef SIZE
#endif
#include "tool.h"

/* Bytes of memory that this process may have: the machine's, or its control group's where that is
   less; 0: not known. */
static double machine_memory(void) {
#if defined(_WIN32)
    MEMORYSTATUSEX status;
    status.dwLength = sizeof status;
    return GlobalMemoryStatusEx(&status) ? (double)status.ullTotalPhys : 0;
#elif defined(_SC_PHYS_PAGES) && defined(_SC_PAGESIZE)
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE), limit = 0;
    FILE *f = fopen("/sys/fs/cgroup/memory.max", "r");
    if (f && fscanf(f, "%lf", &limit) != 1) limit = 0; /* "max" */
    if (f) fclose(f);
    if (have < 0) have = 0;
    return limit > 0 && (have == 0 || limit < have) ? limit : have;
#else
    return 0;
#endif
}

static const char *bytes_text(double bytes, char out[32]) {
    static const char *const units[] = { "KB", "MB", "GB", "TB" };
    size_t i = 0;
    for (bytes /= 1e3; bytes >= 999.5 && i + 1 < COUNT_OF(units); i++) bytes /= 1e3;
    snprintf(out, 32, bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, units[i]);
    return out;
}

/* Of the rows of a source: how wide one is and its target (0: none), how many there are; 0: not
   known before they come. */
static void look_at_rows(const sae_buffer_desc *desc, size_t *dim, size_t *target_dim,
                         double *rows) {
    sae_buffer_desc look = *desc;
    sae_buffer *buffer;
    *dim = desc->source.dim;
    *target_dim = !desc->source.has_target ? 0
                  : desc->source.target_dim ? desc->source.target_dim : *dim;
    *rows = 0;
    if (desc->source.read) return;
    look.rows = look.batch_size = 1;
    look.sequential = true;
    look.max_activation_norm_multiple = 0;
    if (sae_buffer_create(tool.ctx, &look, &buffer) != SAE_OK) return; /* the run will say why */
    *dim = sae_buffer_dim(buffer);
    *target_dim = sae_buffer_target_dim(buffer);
    *rows = (double)sae_buffer_source_rows(buffer);
    sae_buffer_destroy(buffer);
}

/* The trainers' parameters, moments and scratch; the rows that are held for shuffling. */
static bool count_memory(const sae_train_desc *desc, double *trainers, double *held) {
    const sae_buffer_desc *b = &desc->buffer;
    size_t dim, target_dim, i, heads = b->heads > 1 ? b->heads : 1;
    double rows;
    look_at_rows(b, &dim, &target_dim, &rows);
    if (!dim) return false;
    for (i = 0; i < desc->num_trainers; i++) {
        sae_trainer_desc own = desc->trainers[i];
        sae_memory memory;
        if (!own.activation_dim) own.activation_dim = dim / heads;
        if (!own.output_dim) own.output_dim = (target_dim ? target_dim : dim) / heads;
        if (!own.steps) own.steps = desc->steps;
        if (!own.batch_size) own.batch_size = b->batch_size ? b->batch_size : 2048;
        if (sae_trainer_memory(tool.ctx, &own, &memory) != SAE_OK) return false;
        *trainers += (double)memory.host;
    }
    if (b->rows && (rows == 0 || (double)b->rows < rows)) rows = (double)b->rows;
    rows *= 4.0 * ((double)dim + (double)target_dim);
    *held += b->rows || rows < 268435456.0 ? rows : 268435456.0;
    return true;
}

int check_memory(const sae_train_desc *descs, size_t num) {
    double trainers = 0, held = 0, have = machine_memory();
    char all[32], of_trainers[32], of_rows[32], there[32];
    size_t i;
    for (i = 0; i < num; i++)
        if (!count_memory(&descs[i], &trainers, &held)) return DONE;
    bytes_text(trainers + held, all);
    bytes_text(trainers, of_trainers);
    bytes_text(held, of_rows);
    bytes_text(have, there);
    if (have > 0 && trainers + held > have)
        return fail("this run takes %s of memory (%s for weights, moments and scratch, %s for "
                    "rows), and there are %s: less is possible by --dict-size, --batch, "
                    "--buffer-rows, or fewer trainers at once", all, of_trainers, of_rows, there);
    if (!tool.quiet && have > 0 && isatty(fileno(stderr)))
        fprintf(stderr, "memory: %s of %s (%s for weights, moments and scratch, %s for rows)\n",
                all, there, of_trainers, of_rows);
    return DONE;
}
