#!/bin/sh
# Writes sae.1, the manual page, from what the program itself says.
# usage: sh tools/package/make_man.sh build/sae > build/sae.1
sae=$1
text() { sed 's/\\/\\e/g; s/-/\\-/g; s/^[.'\'']/\\\&&/'; }
as_it_is() { # the help sets itself in, and has lines of up to 80 columns
    printf '.in 0\n.nf\n'
    text
    printf '.fi\n.in\n'
}
overview=$("$sae" --help) || exit 1
verbs=$(echo "$overview" | grep -o 'sae [a-z][a-z-]*' | sed 's/sae //' | awk '!seen[$0]++')

printf '.TH SAE 1 "" "%s" "User Commands"\n' "$("$sae" --version)"
printf '.SH NAME\nsae \\- train, judge and run sparse autoencoders\n.SH SYNOPSIS\n'
echo "$overview" | grep '^  ' | as_it_is
cat << 'END'
.SH DESCRIPTION
.B sae
trains sparse autoencoders (dictionaries) on the activations of a language model, opens those of
dictionary_learning, SAELens, sparsify, Gemma Scope, Llama Scope and openai, and runs, judges and
converts them. The same command gives the same bits for any number of threads.
.SH COMMANDS
END
for verb in $verbs; do
    help=$("$sae" "$verb" --help) || exit 1
    echo ".SS $verb" | sed 's/-/\\-/g'
    echo "$help" | as_it_is
done
cat << 'END'
.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
failed; one line on the standard error says why
.TP
.B 2
wrong usage
.TP
.B 130
interrupted; training leaves a backup for
.B \-\-resume
.SH ENVIRONMENT
.TP
.B OMP_WAIT_POLICY
.I passive
lets waiting threads sleep in place of spinning, where other programs need the cores.
END
