"""Reading a page of metrics as Prometheus does."""

from prometheus_client.parser import text_string_to_metric_families


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Name and sorted label values -> value, as Prometheus's own parser reads the page."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items())]
            found[(sample.name, *labels)] = sample.value
    return found
