#!/usr/bin/env python3
"""Writes tests/fixtures/lm: a GPT-NeoX of two layers that has read a little, its tokenizer, a text with what is
awkward in it, two dictionaries, and the losses PyTorch gives with them (expected.json: the oracle of
tests/test_features.c). Needs what tests/peers_loss.py needs, and build/sae."""
import json
import os
import shutil

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import peers_loss as peers

OUT = os.path.join(peers.ROOT, "tests", "fixtures", "lm")
CTX, D, M = 32, 24, 40
TEXT = """In the beginning was a row of numbers, and the rows were without form; and noise was upon the face of the deep.
And the trainer said, Let there be features: and there were features. And the trainer saw the features, that they were sparse.
And the trainer divided the rows by their norm, and called the one train, and the other test. And the evening and the morning
were the first epoch. And the trainer said, Let the rows bring forth latents, each after its kind: and it was so.
"""
HOSTILE = "</script><script>window.hacked = 1</script> \"quotes\" 'and' \\back\\ \x01\x02 na\u00efve \u65e5\u672c \U0001f600 \u2028\n"


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    text = (TEXT + HOSTILE) * 3 + TEXT.upper() + HOSTILE.join(TEXT.split("\n"))
    data = text.encode() + b" \xff\xfe broken \xe6\x97 bytes\n" + TEXT.encode()
    path = os.path.join(OUT, "text.txt")
    open(path, "wb").write(data)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=360, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    folder = os.path.join(OUT, "model")
    os.makedirs(folder)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    ids_path = os.path.join(OUT, "ids.npy")
    done = peers.tool("tokenize", folder, "--text", path, "--out", ids_path)
    assert done.returncode == 0, done.stderr
    ids = torch.tensor(peers.np.load(ids_path).reshape(-1).astype("int64"))
    os.remove(ids_path)
    contexts = ids[:len(ids) // CTX * CTX].reshape(-1, CTX)
    torch.manual_seed(5)
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(
        vocab_size=360, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=CTX, use_cache=False))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        loss = model(contexts, labels=contexts).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    model.half().save_pretrained(folder)
    model.float()
    os.remove(os.path.join(folder, "generation_config.json"))
    expected = {"ctx": CTX, "contexts": len(contexts), "tokens": contexts.numel(), "runs": {}}
    place = peers.Place(model, "gpt_neox.layers.0", "out")
    for kind, more in (("top_k", ["--k", "4"]), ("jumprelu", ["--target-l0", "4", "--bandwidth", "0.05"])):
        temporary = os.path.join(OUT, "temporary")
        os.makedirs(temporary)
        peers.M = M
        run = os.path.join(OUT, kind)
        peers.train(temporary, kind, place, contexts, "gpt_neox.layers.0", run, *more)
        shutil.rmtree(temporary)
        os.remove(os.path.join(run, "ae.safetensors"))
        dictionary = peers.load_dictionary(run, "cpu")[0]
        flat = lambda x: dictionary(x.reshape(-1, x.shape[-1])).reshape(x.shape).detach()
        original, changed, zero = (peers.cross_entropy(place.run(contexts, c), contexts) for c in (None, flat, torch.zeros_like))
        expected["runs"][kind] = {"loss_original": original, "loss_reconstructed": changed, "loss_zero": zero,
                                  "frac_recovered": (changed - zero) / (original - zero)}
    json.dump(expected, open(os.path.join(OUT, "expected.json"), "w"), indent=1)
    print(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
