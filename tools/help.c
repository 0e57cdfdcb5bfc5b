/* sae: the help texts. */
#include "tool.h"

const char help_all[] =
    "sae " SAE_VERSION " - sparse autoencoders\n"
    "\n"
    "  sae train --data FILE... --trainer NAME --dict-size M --steps N --out DIR\n"
    "  sae eval DIR --data FILE          how good it is\n"
    "  sae eval DIR --model M --text FILE             and what the model's loss becomes with it\n"
    "  sae features DIR... --model M --text FILE --out PAGE.html   what its features mean\n"
    "  sae activations --model M --text FILE --submodule PATH --io in|out --out F.npy\n"
    "  sae train --model M --text FILE --submodule PATH ...   in place of --data\n"
    "  sae tokenize M --text FILE --out IDS.npy, sae detokenize M --tokens IDS.npy --out FILE\n"
    "  sae logits M --tokens IDS.npy --out F.npy\n"
    "  sae encode DIR --data FILE --out F.npz         latents of each row\n"
    "  sae reconstruct DIR --data FILE --out F.npy\n"
    "  sae steer-export DIR --feature I --layer L --out F.gguf   a direction for llama.cpp\n"
    "  sae info PATH                     what a file or folder holds\n"
    "  sae tensors PATH [--out DIR]      list or extract the tensors of a file\n"
    "  sae convert SRC DST --to FORMAT   dictionary_learning, sae_lens or sparsify\n"
    "\n"
    "sae VERB --help says more. Exit status: 0 done, 1 failed, 2 wrong usage,\n"
    "130 interrupted.\n";

const char help_train[] =
    "sae train --data FILE... --trainer NAME --dict-size M --steps N --out DIR\n"
    "\n"
    "  --trainer NAME    of those listed below, or the reference's class name\n"
    "  --config F        the reference's config.json; the command line wins over it. Given "
    "several\n"
    "                    times, or holding a list: a sweep over one pass, into DIR/trainer_0, ...\n"
    "  --init F          start from these weights: .safetensors, ae.pt, or a folder\n"
    "  --seed N          of initialisation and shuffling\n"
    "Data\n"
    "  --data FILE...    .npy, .safetensors, or raw with --dim N and --dtype f32|f16|bf16\n"
    "  --target FILE...  the rows to give, row by row (transcoders): as many, and as wide\n"
    "  --tensor NAME     of a .safetensors with several\n"
    "  --order shuffle|sequential    --batch N (2048; or --batch-size)    --buffer-rows N\n"
    "  --model M --text FILE... --submodule PATH --io out|in|in_and_out    in place of --data: "
    "rows of\n"
    "                    a language model while it reads, as in sae activations --help\n"
    "  --max-activation-norm-multiple X    drop rows with a norm above X medians\n"
    "  --normalize-activations    --heads N\n"
    "Run\n"
    "  --log F.jsonl     one JSON object every --log-steps N (100)\n"
    "  --save-steps A,B  checkpoints/ae_STEP.pt    --backup-steps N    --resume\n"
    "  --out DIR         config.json, ae.pt, ae.safetensors; of a sweep in DIR/trainer_0, ...\n"
    "                    Ctrl-C and SIGTERM leave a backup; --resume refuses other steps: --init\n"
    "  --threads N (0: all; the result does not depend on it)    --device cpu|cuda    --quiet\n";

const char help_eval[] =
    "sae eval DIR --data FILE... [--target FILE] [--batch N] [--batches N] [--json]\n"
    "sae eval DIR --model M --text FILE... [--ctx N] [--batch N] [--remove-bos] [--json]\n"
    "\n"
    "  With a language model the rows are its activations at the dictionary's submodule (from its "
    "files,\n"
    "  or --submodule NAME and --io in|out|in_and_out) while it reads the text in contexts of N "
    "(128)\n"
    "  tokens; and its loss is measured as it is, with the reconstruction and with zeros in place "
    "of the\n"
    "  rows, at every position. Prints the table of the reference's README.\n"
    "\n"
    "  The reference's evaluate() over the batches, in the order of the file. l1_loss is that of "
    "the\n"
    "  latents as they were trained: an AutoEncoder keeps its decoder norms here (no other figure "
    "feels\n"
    "  them), while encode and reconstruct bring them to 1, as the reference's loader does.\n"
    "  --raw             the tensors as the file has them, also those of a run that was cut off\n"
    "  --use-top-k, --use-threshold    the other rule of the top-k classes\n"
    "  --dict-class NAME, --k N        for files that do not say\n"
    "  --dim N, --dtype T              of raw data;  --tensor NAME of a .safetensors\n"
    "  --batch N (2048)                whole batches are judged, the rows that are left are not\n"
    "  --threads N, --quiet\n";

const char help_features[] =
    "sae features DIR... --model M --text FILE... --out PAGE.html\n"
    "\n"
    "  One page, no network: for each feature the contexts where it fires most, its tokens, what "
    "its\n"
    "  direction says and what the model does without and with it; the runs side by side. "
    "Beside it\n"
    "  PAGE.json in Neuronpedia's layout (PAGE.0.json, ... of several). A folder of a sweep stands "
    "for\n"
    "  all dictionaries in it. The table's losses are of at most 128 contexts, taken evenly;\n"
    "  sae eval judges all.\n"
    "  --model M         a folder with config.json, model.safetensors, tokenizer.json (GPT-NeoX)\n"
    "  --text FILE...    cut into contexts of --ctx N (128) tokens; --contexts N: the first N "
    "alone\n"
    "  --submodule NAME, --io in|out|in_and_out    where it sits, if its files do not say\n"
    "  --features N (2000)    on the page, of all runs together: those with most energy, the sum "
    "of\n"
    "                    f^2 |w|^2. 2000 make some 4 MB\n"
    "  --log F.jsonl...  of the training; default DIR/log.jsonl or DIR.jsonl\n"
    "  --no-effects      leave out ablating and steering, which run the model most\n"
    "  --raw, --use-top-k, --use-threshold, --dict-class, --k, --threads, --quiet:\n"
    "  as in sae eval --help\n";

const char help_activations[] =
    "sae activations --model M --text FILE... --submodule PATH --out F.npy|F.safetensors\n"
    "\n"
    "  What a language model computes at a submodule while it reads the text: float32 [rows,dim].\n"
    "  --model M         a folder with config.json, model.safetensors (or shards) and\n"
    "                    tokenizer.json, of the GPT-NeoX family (Pythia)\n"
    "  --text FILE...    each is tokenised whole and cut into contexts, the rest dropped; or .npy\n"
    "                    of ids, [n] or [contexts,ctx], below 0: padding\n"
    "  --tokens F.npy    ids, in place of --text\n"
    "  --submodule PATH  gpt_neox.layers.3, gpt_neox.layers.3.mlp, gpt_neox.embed_in, ...\n"
    "  --io out|in|in_and_out    its output (default), its input; both: F.in.npy, F.out.npy\n"
    "  --ctx N (128)     tokens of a context\n"
    "  --dtype f32|f16   of the file\n"
    "  --tokens-out F.npy    the rows' tokens, int32 [contexts,ctx]; [rows] if some are left out\n"
    "  --shard-rows N    F-00001-of-00003.npy, ... of N rows each; train reads them as one stream\n"
    "  --remove-bos      leave out the rows of the bos token; those of padding always are\n"
    "  --threads N, --quiet\n";

const char help_tokenize[] =
    "sae tokenize M --text FILE... --out IDS.npy\n"
    "\n"
    "  The ids of the text, int32 [n], by M/tokenizer.json (byte-level BPE). Special tokens that\n"
    "  are written in the text are taken for what they are; bytes that are no UTF-8 stay.\n";

const char help_detokenize[] =
    "sae detokenize M --tokens IDS.npy --out FILE\n"
    "\n"
    "  The bytes that the ids stand for.\n";

const char help_logits[] =
    "sae logits M --tokens IDS.npy --out F.npy\n"
    "\n"
    "  What the model predicts behind each token: float32 [contexts,ctx,vocabulary].\n"
    "  --tokens F.npy    [contexts,ctx], or [n], cut into contexts of --ctx N (128)\n"
    "  --text FILE...    in place of it\n"
    "  --threads N, --quiet\n";

const char help_encode[] =
    "sae encode DIR --data FILE... --out F.npz\n"
    "\n"
    "  The latents that are not 0, as row (int64), index (int32), value (float32), shape (int64 "
    "[2]).\n"
    "  --dense           a float32 .npy [rows,dict_size] instead\n"
    "  --delphi          delphi's latent cache instead: OUT is a folder, MODULE/0_N.safetensors, "
    "...\n"
    "                    with --module NAME, --ctx N (256) tokens a context, --splits N (5)\n"
    "                    files, --tokens F.npy [contexts,ctx]\n"
    "  --batch N (2048)  rows that choose together, with --use-top-k of the batch classes\n"
    "  --raw             the tensors as the file has them (an AutoEncoder's decoder rows are "
    "brought to\n"
    "                    norm 1 otherwise)\n"
    "  --use-top-k, --use-threshold, --dict-class, --k, --dim, --dtype, --tensor, --threads:\n"
    "  as in sae eval --help\n";

const char help_reconstruct[] =
    "sae reconstruct DIR --data FILE... --out F.npy\n"
    "\n"
    "  What the dictionary gives back for each row, float32 [rows,activation_dim].\n"
    "  Options: as in sae encode --help, without --dense.\n";

const char help_steer_export[] =
    "sae steer-export DIR --feature I --layer L --out F.gguf [--strength S]\n"
    "\n"
    "  The direction of latent I as a control vector of llama.cpp:\n"
    "    llama-cli -m MODEL.gguf --control-vector-scaled F.gguf 8\n"
    "  --layer L           the block whose output (resid_post L) is steered, from 1\n"
    "  --strength S (1)    times the decoder row, which has norm 1 in most classes\n"
    "  --model-hint NAME   the model's architecture, for the reader\n"
    "  --raw, --dict-class NAME, --k N    as in sae eval --help\n";

const char help_info[] =
    "sae info PATH [--json]\n"
    "\n"
    "  Format, class, shapes, threshold, norms, origin of a dictionary; a listing of any other "
    "file.\n"
    "  Of files above 1 GiB the norms are those of the first 1024 latents.\n"
    "  --dict-class NAME, --k N        for files that do not say\n";

const char help_tensors[] =
    "sae tensors PATH [--json] [--out DIR]\n"
    "\n"
    "  Lists the tensors of a .pt, .safetensors, .npz, .npy or .gguf. With --out each goes to "
    "DIR/000.npy, ...\n"
    "  with DIR/names.json; floats as float32, integers and bools as int64. Of a folder the file\n"
    "  of the weights. --any: also a params.npz that is not Gemma Scope's.\n";

const char help_convert[] =
    "sae convert SRC DST --to dictionary_learning|sae_lens|sparsify\n"
    "\n"
    "  Writes SRC, any dictionary that sae info opens, as a folder of another program; says what\n"
    "  was mapped, and how far both differ on random rows. What DST cannot say is refused.\n"
    "  --lm-name NAME, --hook NAME, --layer N    where the dictionary sits, if SRC does not say\n"
    "  --data FILE...                  to sae_lens: also sparsity.safetensors, of these rows\n"
    "  --raw                           to dictionary_learning: leave the decoder's norms\n"
    "  --use-threshold                 the threshold of a top-k class\n"
    "  --dict-class NAME, --k N        for files that do not say\n"
    "  --batch, --dim, --dtype, --tensor, --threads, --quiet: as in sae encode --help\n";
