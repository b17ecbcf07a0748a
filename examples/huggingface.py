"""Models of Hugging Face as they are: dict batches, one head, LoRA, moved embeddings, removed documents.

The models are made from small configurations, so that nothing is downloaded; yours comes from
``from_pretrained``. They are not trained to the end here, which is why ``gradient_tol`` is large: train yours
on the risk that you study, in evaluation mode.

    pip install solset transformers peft
    python examples/huggingface.py
"""

from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

import solset
from solset.goals import PointLosses

DOCUMENTS, TOKENS, WORDS = 12, 6, 20
OPTIONS = {"outputs": "logits", "weight_decay": 0.1, "gradient_tol": 10.0}


def documents() -> tuple[dict[str, Tensor], Tensor]:
    """Token ids with the mask of their padding, as a tokenizer gives them, and a label for each document."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, WORDS, (DOCUMENTS, TOKENS), generator=generator)
    lengths = torch.randint(2, TOKENS + 1, (DOCUMENTS,), generator=generator)
    mask = (torch.arange(TOKENS) < lengths.unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, torch.arange(DOCUMENTS) % 2


def distilbert() -> PreTrainedModel:
    """A small DistilBERT that classifies documents."""
    sizes = {"dim": 4, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}
    config = DistilBertConfig(vocab_size=WORDS, max_position_embeddings=TOKENS, num_labels=2, **sizes)
    return DistilBertForSequenceClassification(config).double().eval()


def gpt2() -> PreTrainedModel:
    """A small GPT-2 that classifies documents."""
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": TOKENS}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = GPT2Config(vocab_size=WORDS, num_labels=2, **tokens, **sizes)
    return GPT2ForSequenceClassification(config).double().eval()


def moved_embeddings(model: PreTrainedModel) -> Tensor:
    """New weights after a displacement of the embeddings of the first document, ``(1, T, d)``."""
    batch, labels = documents()
    moves = solset.embedding_of("input_ids")
    problem = solset.Problem(model, nn.CrossEntropyLoss(), batch, labels, moves=moves, **OPTIONS)
    dx = torch.linspace(-0.01, 0.02, TOKENS * 4, dtype=torch.float64).reshape(1, *problem.input_shape)
    return problem.estimate(solset.Move([0], dx)).min_norm().weights


def removed_documents(model: PreTrainedModel) -> Tensor:
    """New weights without the first document, to first order: a Newton step asks for a trained model.

    Token ids are held: nothing has to move for this.
    """
    batch, labels = documents()
    problem = solset.Problem(model, nn.CrossEntropyLoss(), batch, labels, **OPTIONS)
    return problem.estimate(solset.Remove([0]), order="first").min_norm().weights


def head_only(model: PreTrainedModel) -> Tensor:
    """The change of two documents' losses by the removal of each document, if only the head was trained."""
    batch, labels = documents()
    head = ["classifier.*"]
    problem = solset.Problem(model, nn.CrossEntropyLoss(), batch, labels, parameters=head, **OPTIONS)
    first = {name: values[:2] for name, values in batch.items()}
    return -cast(Tensor, problem.attribute(PointLosses(first, labels[:2])).weights)


def lora(model: PreTrainedModel) -> Tensor:
    """New weights of adapters of rank 2 and the head without the first document; the rest is frozen."""
    adapters = LoraConfig(r=2, target_modules=["q_lin", "v_lin"], modules_to_save=["classifier"])
    batch, labels = documents()
    adapted = get_peft_model(model, adapters).eval()  # only what requires grad moves
    problem = solset.Problem(adapted, nn.CrossEntropyLoss(), batch, labels, **OPTIONS)
    return problem.estimate(solset.Remove([0]), order="first").min_norm().weights


if __name__ == "__main__":
    torch.manual_seed(0)
    for build in (distilbert, gpt2):
        print(build.__name__, tuple(moved_embeddings(build()).shape), tuple(removed_documents(build()).shape))
    print("scores", tuple(head_only(distilbert()).shape), "adapters", tuple(lora(distilbert()).shape))
