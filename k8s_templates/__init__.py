"""The manifests of a Job and the scripts of its first containers, as data.

Contract: a template gets plain values from `launcher/render.py` and nothing else. Every value stands alone, as a whole YAML
scalar, behind the filter `q`: `{{ run | q }}`. Loops and conditions choose structure; a value never does. `job.yaml.j2` is a
batch/v1 Job and includes `_pod.yaml.j2`; `config_map.yaml.j2` holds a diff too large for an annotation; `checkout.sh` and `stage.sh` are
static and take their values from the environment.
"""
