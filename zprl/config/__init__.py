"""``params.yaml`` as frozen pydantic models, one per section.  Unknown keys are errors.

Every tunable number of the pipeline stands in ``params.yaml``; DVC sees each of them.  The text of
each field is what ``zprl config explain`` prints.  Source tags: *paper* (arXiv 2605.19919),
*official code* (its authors' repository),
*ours* (measured or decided here).
"""

from zprl.config.demonstrations import (
    ROTATION_WIDTHS,
    ActionPart,
    Conventions,
    Grade,
    Ingest,
    ObservationPart,
    Part,
    Recipe,
    RotationForm,
)
from zprl.config.evaluation import Evaluate, Promote, Report, Transfer
from zprl.config.learning import (
    ALGORITHMS,
    Budget,
    Learning,
    LearningSection,
    PolicyGradient,
    Rl,
    section_of,
)
from zprl.config.params import (
    ACTION_RESIDUAL,
    MAX_LISTED,
    PARAMS_FILE,
    Params,
    load,
    mistakes,
    parse,
)
from zprl.config.policy import Images, Policy, Pretrain, VibConfig
from zprl.config.robot import Real
from zprl.config.sections import MAX_LAYERS, MAX_WIDTH, Layers, Section, Steps, Width, write_over
from zprl.config.world import Assets, Engine, Randomise, Run, Task

__all__ = [
    "ACTION_RESIDUAL",
    "ALGORITHMS",
    "MAX_LAYERS",
    "MAX_LISTED",
    "MAX_WIDTH",
    "PARAMS_FILE",
    "ROTATION_WIDTHS",
    "ActionPart",
    "Assets",
    "Budget",
    "Conventions",
    "Engine",
    "Evaluate",
    "Grade",
    "Images",
    "Ingest",
    "Layers",
    "Learning",
    "LearningSection",
    "ObservationPart",
    "Params",
    "Part",
    "Policy",
    "PolicyGradient",
    "Pretrain",
    "Promote",
    "Randomise",
    "Real",
    "Recipe",
    "Report",
    "Rl",
    "RotationForm",
    "Run",
    "Section",
    "Steps",
    "Task",
    "Transfer",
    "VibConfig",
    "Width",
    "load",
    "mistakes",
    "parse",
    "section_of",
    "write_over",
]
