"""Evidence: the cards of models and of datasets, and the gate that asks for it."""

from mojiang.core.catalog import lazy

TRUST = {
    "card": ("mojiang.trust.card:Card", "Model card from the store, as Markdown and HTML"),
    "data_card": ("mojiang.trust.data_card:DataCard", "Data card: an audit of a dataset, as Markdown and HTML"),
    "gate": ("mojiang.trust.gate:Gate", "Refuse a model unless its evidence meets a policy"),
}

__getattr__ = lazy(__name__, TRUST)
