"""`vidjobs rbac [FEATURE]...`: the Roles that vidjobs needs in the namespace, one block a feature, for an administrator to apply."""

from __future__ import annotations

from collections.abc import Sequence

from launcher import output
from launcher.backends.kube import rbac
from launcher.errors import UserError, did_you_mean
from launcher.profiles import choose
from launcher.render import to_yaml


def _block(feature: str, namespace: str) -> str:
    """What each right is for and how to give it to a person, as comments; then the Role."""
    reasons = [
        f"#   {', '.join(rule.verbs)} {rule.resource}: {rule.why}"
        for rule in rbac.FEATURES[feature]
    ]
    name = rbac.role_name(feature)
    binding = f"# kubectl create rolebinding {name} --role={name} --user=NAME --namespace={namespace or 'NAMESPACE'}"
    heading = [f"# {feature}: {rbac.ABOUT[feature]}", *reasons, binding]
    return "\n".join(heading) + "\n" + to_yaml([rbac.role(feature, namespace)]).rstrip("\n")


def run(*, cluster: str | None = None, features: Sequence[str] = ()) -> int:
    """Needs no login: who has no rights yet prints it for the person who can give them."""
    profile = choose(cluster)
    if profile.backend != "kube":
        output.note("this machine needs no rights; these are for a cluster's namespace")
    for feature in features:
        if feature not in rbac.FEATURES:
            hint = (
                did_you_mean(feature, list(rbac.FEATURES)) or f"known: {', '.join(rbac.FEATURES)}"
            )
            raise UserError(f'no feature is called "{feature}"', hint=hint)
    output.result(
        "\n---\n".join(_block(feature, profile.namespace) for feature in features or rbac.FEATURES)
    )
    return 0
