"""Which class computes which architecture, by the names that `config.json` uses.

The table holds strings only, so that reading it imports no model.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mojiang.core.errors import BadInput
from mojiang.model.network import HEADS, Head, Network

_DECODER, _GPT2 = "mojiang.model.decoder:Decoder", "mojiang.model.gpt2:GPT2"
_BERT, _ROBERTA = "mojiang.model.bert:Bert", "mojiang.model.roberta:Roberta"
_DISTILBERT, _ALBERT = "mojiang.model.distilbert:DistilBert", "mojiang.model.albert:Albert"
_ELECTRA, _VIT = "mojiang.model.electra:Electra", "mojiang.model.vit:ViT"
_T5, _BART, _MARIAN = "mojiang.model.t5:T5", "mojiang.model.bart:Bart", "mojiang.model.marian:Marian"
_LENET, _RESNET = "mojiang.model.lenet:LeNet", "mojiang.model.resnet:ResNet"
_TEXTCNN, _RNN = "mojiang.model.textcnn:TextCNN", "mojiang.model.rnn:RNN"
_BILSTM_CRF, _RNN_SEQ2SEQ = "mojiang.model.bilstm_crf:BiLSTMCRF", "mojiang.model.rnn_seq2seq:RNNSeq2Seq"
_ELMO = "mojiang.model.elmo:ELMo"

ARCHITECTURES: dict[str, tuple[str, Head]] = {
    "GPT2LMHeadModel": (_GPT2, "causal_lm"),
    "GPT2ForSequenceClassification": (_GPT2, "sequence_classification"),
    "GPT2ForTokenClassification": (_GPT2, "token_classification"),
    "GPT2ForQuestionAnswering": (_GPT2, "question_answering"),
    "GPT2Model": (_GPT2, "embedding"),
    "LlamaForCausalLM": (_DECODER, "causal_lm"),
    "LlamaForSequenceClassification": (_DECODER, "sequence_classification"),
    "LlamaForTokenClassification": (_DECODER, "token_classification"),
    "LlamaForQuestionAnswering": (_DECODER, "question_answering"),
    "LlamaModel": (_DECODER, "embedding"),
    "Qwen2ForCausalLM": (_DECODER, "causal_lm"),
    "Qwen2ForSequenceClassification": (_DECODER, "sequence_classification"),
    "Qwen2ForTokenClassification": (_DECODER, "token_classification"),
    "Qwen2ForQuestionAnswering": (_DECODER, "question_answering"),
    "Qwen2Model": (_DECODER, "embedding"),
    "Qwen3ForCausalLM": (_DECODER, "causal_lm"),
    "Qwen3ForSequenceClassification": (_DECODER, "sequence_classification"),
    "Qwen3ForTokenClassification": (_DECODER, "token_classification"),
    "Qwen3ForQuestionAnswering": (_DECODER, "question_answering"),
    "Qwen3Model": (_DECODER, "embedding"),
    "Qwen3MoeForCausalLM": (_DECODER, "causal_lm"),
    "Qwen3MoeForSequenceClassification": (_DECODER, "sequence_classification"),
    "Qwen3MoeForTokenClassification": (_DECODER, "token_classification"),
    "Qwen3MoeForQuestionAnswering": (_DECODER, "question_answering"),
    "Qwen3MoeModel": (_DECODER, "embedding"),
    "BertForMaskedLM": (_BERT, "masked_lm"),
    "BertForPreTraining": (_BERT, "pretraining"),
    "BertForSequenceClassification": (_BERT, "sequence_classification"),
    "BertForTokenClassification": (_BERT, "token_classification"),
    "BertForQuestionAnswering": (_BERT, "question_answering"),
    "BertModel": (_BERT, "embedding"),
    "RobertaForMaskedLM": (_ROBERTA, "masked_lm"),
    "RobertaForSequenceClassification": (_ROBERTA, "sequence_classification"),
    "RobertaForTokenClassification": (_ROBERTA, "token_classification"),
    "RobertaForQuestionAnswering": (_ROBERTA, "question_answering"),
    "RobertaModel": (_ROBERTA, "embedding"),
    "DistilBertForMaskedLM": (_DISTILBERT, "masked_lm"),
    "DistilBertForSequenceClassification": (_DISTILBERT, "sequence_classification"),
    "DistilBertForTokenClassification": (_DISTILBERT, "token_classification"),
    "DistilBertForQuestionAnswering": (_DISTILBERT, "question_answering"),
    "DistilBertModel": (_DISTILBERT, "embedding"),
    "AlbertForMaskedLM": (_ALBERT, "masked_lm"),
    "AlbertForPreTraining": (_ALBERT, "pretraining"),
    "AlbertForSequenceClassification": (_ALBERT, "sequence_classification"),
    "AlbertForTokenClassification": (_ALBERT, "token_classification"),
    "AlbertForQuestionAnswering": (_ALBERT, "question_answering"),
    "AlbertModel": (_ALBERT, "embedding"),
    "ElectraForMaskedLM": (_ELECTRA, "masked_lm"),
    "ElectraForPreTraining": (_ELECTRA, "pretraining"),
    "ElectraForSequenceClassification": (_ELECTRA, "sequence_classification"),
    "ElectraForTokenClassification": (_ELECTRA, "token_classification"),
    "ElectraForQuestionAnswering": (_ELECTRA, "question_answering"),
    "ElectraModel": (_ELECTRA, "embedding"),
    "T5ForConditionalGeneration": (_T5, "seq2seq_lm"),
    "T5ForSequenceClassification": (_T5, "sequence_classification"),
    "T5ForQuestionAnswering": (_T5, "question_answering"),
    "BartForConditionalGeneration": (_BART, "seq2seq_lm"),
    "BartForSequenceClassification": (_BART, "sequence_classification"),
    "BartForQuestionAnswering": (_BART, "question_answering"),
    "BartModel": (_BART, "seq2seq_lm"),
    "MarianMTModel": (_MARIAN, "seq2seq_lm"),
    "ViTForImageClassification": (_VIT, "image_classification"),
    "ViTModel": (_VIT, "embedding"),
    "ResNetForImageClassification": (_RESNET, "image_classification"),
    "MojiangLeNet": (_LENET, "image_classification"),
    "MojiangTextCNN": (_TEXTCNN, "sequence_classification"),
    "MojiangRNN": (_RNN, "sequence_classification"),
    "MojiangBiLSTMCRF": (_BILSTM_CRF, "token_classification"),
    "MojiangRNNSeq2Seq": (_RNN_SEQ2SEQ, "seq2seq_lm"),
    "MojiangELMoForPreTraining": (_ELMO, "pretraining"),
    "MojiangELMo": (_ELMO, "embedding"),
}
"""Name in `architectures` → (class, head)."""

MODEL_TYPES: dict[str, tuple[str, Head]] = {
    "gpt2": (_GPT2, "causal_lm"),
    "llama": (_DECODER, "causal_lm"),
    "qwen2": (_DECODER, "causal_lm"),
    "qwen3": (_DECODER, "causal_lm"),
    "qwen3_moe": (_DECODER, "causal_lm"),
    "bert": (_BERT, "masked_lm"),
    "roberta": (_ROBERTA, "masked_lm"),
    "distilbert": (_DISTILBERT, "masked_lm"),
    "albert": (_ALBERT, "masked_lm"),
    "electra": (_ELECTRA, "pretraining"),
    "t5": (_T5, "seq2seq_lm"),
    "bart": (_BART, "seq2seq_lm"),
    "marian": (_MARIAN, "seq2seq_lm"),
    "vit": (_VIT, "image_classification"),
    "resnet": (_RESNET, "image_classification"),
    "lenet": (_LENET, "image_classification"),
    "textcnn": (_TEXTCNN, "sequence_classification"),
    "rnn": (_RNN, "sequence_classification"),
    "bilstm_crf": (_BILSTM_CRF, "token_classification"),
    "rnn_seq2seq": (_RNN_SEQ2SEQ, "seq2seq_lm"),
    "elmo": (_ELMO, "pretraining"),
}
"""`model_type` → (class, the head of a folder whose config names no architecture)."""


def resolve(hf_config: dict[str, Any]) -> tuple[str, Head]:
    """(class, head) of the checkpoint that a `config.json` describes.

    >>> resolve({"architectures": ["BertForMaskedLM"], "model_type": "bert"})
    ('mojiang.model.bert:Bert', 'masked_lm')

    Raises:
        BadInput: the architecture is not computed here.
    """
    named = (hf_config.get("architectures") or [None])[0]
    model_type = hf_config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise BadInput(
            f"model_type is {model_type!r} in config.json", hint=f"computed are {', '.join(sorted(MODEL_TYPES))}"
        )
    if named is None:
        return MODEL_TYPES[model_type]
    if named not in ARCHITECTURES:
        same = sorted(n for n, (where, _) in ARCHITECTURES.items() if where == MODEL_TYPES[model_type][0])
        raise BadInput(f"architectures is {named!r} in config.json", hint=f"computed are {', '.join(same)}")
    return ARCHITECTURES[named]


def build(hf_config: dict[str, Any], head: Head | None = None, num_labels: int | None = None) -> Network:
    """A network, with arbitrary weights, for a `config.json`; with another head than it names if `head` is given.

    Raises:
        BadInput: the architecture, the head or a setting is not computed here.
    """
    where, own_head = resolve(hf_config)
    if head is not None and head not in HEADS:
        raise BadInput(f"there is no head {head!r}", hint=f"heads are {', '.join(HEADS)}")
    wanted = head or own_head
    if not any(entry == (where, wanted) for entry in ARCHITECTURES.values()):
        heads = sorted({h for w, h in ARCHITECTURES.values() if w == where})
        raise BadInput(
            f"model_type {hf_config['model_type']!r} has no head {wanted!r}", hint=f"it has {', '.join(heads)}"
        )
    module, _, name = where.partition(":")
    network: Network = getattr(import_module(module), name).from_hf(hf_config, wanted, num_labels)
    return network
