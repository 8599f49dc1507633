"""`vidjobs rbac [FEATURE]...`: the Roles that vidjobs needs in the namespace, one block a feature, for an administrator to apply."""

from __future__ import annotations

from collections.abc import Sequence

from launcher import output
from launcher.backends.kube import rbac
from launcher.backends.kube.client import KubeClient
from launcher.errors import UserError, did_you_mean
from launcher.profiles import ClusterProfile, choose
from launcher.render import to_yaml

_SUBJECT = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "NAME-OF-THE-USER"}


def _block(feature: str, namespace: str) -> str:
    """Comments that say what each right is for, then Role and binding."""
    reasons = [f"#   {', '.join(rule.verbs)} {rule.resource}: {rule.why}" for rule in rbac.FEATURES[feature]]
    heading = [f"# {feature}: {rbac.ABOUT[feature]}", *reasons]
    return "\n".join(heading) + "\n" + to_yaml(rbac.manifests([feature], namespace, _SUBJECT)).rstrip("\n")


def _namespace(profile: ClusterProfile) -> str:
    return profile.namespace or KubeClient(context=profile.context).namespace


def run(*, cluster: str | None = None, features: Sequence[str] = ()) -> int:
    profile = choose(cluster)
    if profile.backend != "kube":
        raise UserError(f'"{profile.name}" is this machine: it needs no rights', hint="--cluster NAME; `vidjobs clusters` lists them")
    for feature in features:
        if feature not in rbac.FEATURES:
            hint = did_you_mean(feature, list(rbac.FEATURES)) or f"known: {', '.join(rbac.FEATURES)}"
            raise UserError(f'no feature is called "{feature}"', hint=hint)
    namespace = _namespace(profile)
    output.result("\n---\n".join(_block(feature, namespace) for feature in features or rbac.FEATURES))
    output.note("replace NAME-OF-THE-USER (or give a ServiceAccount or Group), then `kubectl apply -f -`")
    return 0
