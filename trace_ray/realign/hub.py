"""A run's model, adapter and card on a hub of models."""

from __future__ import annotations

from pathlib import Path

from trace_ray.config import Config
from trace_ray.errors import UserError
from trace_ray.realign.card import base_licence, card_facts, model_card
from trace_ray.realign.checkpoint import ADAPTER
from trace_ray.realign.export import MERGED
from trace_ray.runs.artifacts import EVALUATION_METRICS, Run, read_json
from trace_ray.runs.figures import training_figures
from trace_ray.storage.staging import download_folder

CARD = "README.md"


def push_to_hub(run: Run, config: Config, repository: str, *, private: bool = True) -> str:
    """Uploads the merged model, the adapter below adapter/, and a card with the results; returns the repository's address.

    What is there already stays, but for files of the same names. Hub and token are those that the hub's own client finds.

    Args:
        repository: owner/name, made where it is not there; private: only where it is made.
    Raises: UserError where the model is not exported, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    run.model.manifest()
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        for folder, inside in ((MERGED, ""), (ADAPTER, ADAPTER)):
            place = run.model.place / folder
            if place.files():
                with download_folder(place) as local:
                    api.upload_folder(
                        repo_id=repository, folder_path=local, path_in_repo=inside or None, ignore_patterns=[CARD]
                    )
        card = hub_card(run, config, repository).encode()
        api.upload_file(path_or_fileobj=card, path_in_repo=CARD, repo_id=repository)
    except (HfHubHTTPError, HFValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError("--to", repository, f"the hub refused: {said}; see `hf auth login`") from None
    return str(address)


def hub_card(run: Run, config: Config, repository: str) -> str:
    """Returns the card as the hub shows it, with the results of an evaluation that is done."""
    metrics = read_json(run.evaluation.place / EVALUATION_METRICS) if run.evaluation.done() else None
    facts = card_facts(run, config, training_figures(run))
    name = Path(repository).name
    return model_card(facts, base_licence(config.model.path), name=name, metrics=metrics, limits=config.report)
