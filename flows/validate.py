"""Check a dataset: `python -m flows.validate --root=PATH`."""

from prefect import flow

from lerobot_ops.datasets.validation.command import CheckConfig
from lerobot_ops.datasets.validation.validate import ValidateConfig
from tasks.datasets import Validated, dataset_at, validate_dataset
from tasks.steps import run_step, slug
from tasks.tables import show


@flow(name="validate")
def validate(config: CheckConfig) -> Validated:
    """Check a dataset's format and quality; fails when a finding is as severe as `fail_on`."""
    dataset = dataset_at(config.root)
    rules = ValidateConfig(**config.model_dump(include=set(ValidateConfig.model_fields)))
    report = run_step(validate_dataset, label=f"validate {dataset.name}", dataset=dataset, config=rules)
    show(f"validation-{slug(dataset.name)}", report.markdown())
    report.raise_if()
    return report


if __name__ == "__main__":
    from flows.terminal import main

    main(validate, CheckConfig)
