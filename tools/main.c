
/*  sae - the command-line tool: train, judge and run sparse autoencoders.

    Build: make build/sae. What each file of it does: tool.h.
*/
#include "tool.h"

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv); /* NULL: a later version's */
} verbs[] = {
    { "train", help_train, verb_train }, { "eval", help_eval, verb_use },
    { "encode", help_encode, verb_use }, { "reconstruct", help_reconstruct, verb_use },
    { "steer-export", help_steer_export, verb_steer_export },
    { "info", help_info, verb_info }, { "tensors", help_tensors, verb_tensors },
    { "convert", help_convert, verb_convert },
    { "features", help_features, verb_features },
    { "activations", help_activations, verb_activations },
    { "tokenize", help_tokenize, verb_tokenize },
    { "detokenize", help_detokenize, verb_detokenize }, { "logits", help_logits, verb_logits },
    { "generate", help_generate, verb_generate }, { "steer", help_steer, verb_steer }
};
enum { NUM_VERBS = sizeof verbs / sizeof verbs[0] };

static void print_help(size_t verb) {
    printf("%s", verbs[verb].help);
    if (verbs[verb].run == verb_train) print_hyperparameters();
}

static int run_verb(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "", *best = NULL;
    size_t least = 4, i;
    int a;
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("sae %s\n", SAE_VERSION);
        return DONE;
    }
    if (strcmp(name, "help") == 0 && argc > 2) name = argv[2];
    else if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        printf("%s", help_all);
        return DONE;
    }
    if (!name[0]) {
        fprintf(stderr, "%s", help_all);
        return WRONG_USAGE;
    }
    for (i = 0; i < NUM_VERBS; i++) {
        bool help = strcmp(argv[1], "help") == 0;
        if (strcmp(verbs[i].name, name) != 0) continue;
        if (!verbs[i].run) return fail_usage("%s is not in this version", name);
        for (a = 2; a < argc; a++)
            if (strcmp(argv[a], "--help") == 0 || strcmp(argv[a], "-h") == 0) help = true;
        if (help) {
            print_help(i);
            return DONE;
        }
        tool.verb = verbs[i].name;
        return verbs[i].run(argc, argv);
    }
    for (i = 0; i < NUM_VERBS; i++) nearer(name, verbs[i].name, &best, &least);
    if (best) return fail_usage("%s is no verb; did you mean %s?", name, best);
    return fail_usage("%s is no verb; sae --help lists them", name);
}

int main(int argc, char **argv) {
    int status;
    tool.verb = "";
    status = run_verb(argc, argv);
    sae_context_destroy(tool.ctx);
    while (tool.num_kept) free(tool.kept[--tool.num_kept]);
    free(tool.kept);
    if (fflush(stdout) != 0 && status == DONE)
        status = fail("writing to the standard output failed");
    return status;
}
