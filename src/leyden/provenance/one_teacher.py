"""The one-teacher rule: the model that wrote the SFT data is the model that scores."""

from leyden.errors import ConsistencyError
from leyden.provenance.identity import ModelIdentity

VERIFIED, DECLARED, OVERRIDDEN = "verified", "declared", "overridden"


def check_one_teacher(
    wrote: ModelIdentity, scores: ModelIdentity, *, allowed: bool, declared: bool = False
) -> str:
    """The one-teacher rule: the model that wrote the SFT data is the model that scores.

    Returns ``verified``, ``declared`` or ``overridden``; raises ConsistencyError where they differ
    and the recipe does not allow it. Source: the paper's teacher consistency, method section 1.
    """
    if wrote.digest == scores.digest:
        return DECLARED if declared else VERIFIED
    if allowed:
        return OVERRIDDEN
    parts = ", ".join(wrote.differences(scores))
    raise ConsistencyError(
        f"the scoring teacher {scores.digest[:12]} is not the teacher {wrote.digest[:12]} that "
        f"wrote the SFT data: they differ in {parts}",
        hint="score with the model that wrote the SFT data; to go on against the method, set "
        "score.allow_inconsistent_teacher = true",
    )
