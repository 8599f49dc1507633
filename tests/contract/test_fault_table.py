"""The faults that must not cost anybody a week, and the tests that inject them. Each row has tests; each test that is named is there.

Tests below tests/cluster run on a real API server and kubelet; the others inject what a cluster cannot be told to do.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

TABLE: dict[str, tuple[str, ...]] = {
    "API server restarts, connection reset, idle EOF, log rotation, pod replaced, while following -> every line once, losses marked": (
        "cluster/test_log_faults.py::test_every_line_once_although_the_api_server_is_killed",
        "cluster/test_log_faults.py::test_every_line_once_although_the_kubelet_is_stopped",
        "cluster/test_log_faults.py::test_lines_that_the_node_rotated_away_are_marked",
        "cluster/test_kube_logs.py::test_every_line_once_although_the_connection_is_cut_again_and_again",
        "cluster/test_kube_logs.py::test_a_pod_deleted_in_the_middle_leaves_a_gap_and_its_replacement_follows",
        "cluster/test_kube_logs.py::test_a_retry_follows_on",
        "cluster/test_faults.py::test_a_log_outlives_its_pod",
        "launcher/kube/test_log_follow.py::test_every_line_once_whatever_the_cuts",
    ),
    "pod evicted, preempted, OOM -> retried, training resumes; a conf or data error is not retried": (
        "cluster/test_kube_causes.py::test_evicted_as_a_drained_node_does",
        "cluster/test_kube_causes.py::test_evicted_for_its_disk",
        "cluster/test_kube_status.py::test_out_of_memory",
        "cluster/test_retries.py::test_a_pod_that_ran_out_of_memory_is_tried_again",
        "cluster/test_retries.py::test_an_eviction_is_not_counted",
        "cluster/test_retries.py::test_each_exit_code_is_final_or_tried_again_as_the_trainer_means_it",
        "cluster/test_stops.py::test_a_deleted_pod_is_replaced_and_its_training_goes_on",
        "cluster/test_stops.py::test_a_preempted_pod_saves_and_its_training_goes_on",
        "cluster/test_nodes.py::test_pods_train_lose_one_and_come_back_to_the_same_weights",
        "cluster/test_end_to_end.py::test_a_conf_or_data_error_is_not_retried",
        "trainer/test_resume.py::test_killed_and_stopped_runs_end_bit_for_bit_as_the_uninterrupted_one",
    ),
    "node gone -> `node X lost, waiting`, then the retry resumes": (
        "cluster/test_lost_node.py::test_a_lost_node",
    ),
    "connection cut during fetch or push -> goes on from the last verified byte, never a half file": (
        "cluster/test_kube_files.py::test_a_run_that_ends_in_the_middle_of_a_fetch_is_read_on_elsewhere",
        "cluster/test_hands_on.py::test_a_push_through_three_cuts_sends_only_what_is_missing",
        "cluster/test_hands_on.py::test_a_push_goes_on_in_another_pod_when_its_own_is_deleted",
        "launcher/test_fetching.py::test_after_any_cuts_the_file_is_whole_and_nothing_was_sent_twice",
        "launcher/test_fetching.py::test_a_later_fetch_goes_on_where_the_first_was_cut",
        "launcher/test_pushing.py::test_after_any_cuts_the_tree_is_whole_and_little_was_sent_twice",
    ),
    "PVC full or over quota -> a clean stop, the last checkpoint whole, how much is missing": (
        "cluster/test_faults.py::test_a_full_claim_ends_training_cleanly_and_keeps_its_last_checkpoint",
        "cluster/test_hands_on.py::test_what_the_volume_refuses_is_told",
        "trainer/test_exit_codes.py::test_a_full_volume_is_73_with_whole_checkpoints_and_more_room_lets_it_go_on",
        "trainer/test_prepare.py::test_a_full_volume_while_writing_is_said",
        "launcher/test_fetching.py::test_too_little_space_is_said_before_the_first_byte",
    ),
    "corrupt, truncated, empty, variable-rate or missing video or frame -> named in prepare's report, never swapped": (
        "cluster/test_shards.py::test_damaged_videos_are_named_and_nothing_stands_in_for_them",
        "cluster/test_shards.py::test_a_fault_of_the_data_ends_all_shards_without_a_retry",
        "trainer/test_prepare.py::test_every_kind_of_damage_is_named",
        "trainer/test_prepare.py::test_unreadable_clips_stop_unless_the_conf_leaves_them_out",
        "trainer/test_prepare.py::test_missing_frames_at_the_end_of_a_folder_are_repeated",
        "trainer/test_prepare_verb.py::test_a_video_that_was_cut_off_is_named",
        "trainer/data/test_decode.py::test_a_truncated_file_gives_the_frames_before_the_cut",
        "trainer/data/test_decode.py::test_a_variable_rate_is_noticed_and_every_frame_comes_once",
    ),
    "NaN or divergence -> 76, step and samples named, the last finite checkpoint kept": (
        "cluster/test_faults.py::test_a_loss_that_is_no_number_stops_at_once_and_names_its_step",
        "trainer/test_exit_codes.py::test_divergence_is_76_and_names_step_and_clips",
    ),
    "two submits at once, same name; submit twice -> distinct runs, nothing overwritten": (
        "cluster/test_faults.py::test_two_submits_at_once_are_two_runs",
        "cluster/test_kube_backend.py::test_a_name_is_never_taken_twice",
        "launcher/test_records.py::test_two_submits_never_share_a_name",
        "trainer/test_lock.py::test_a_second_writer_is_told_who_holds_the_folder",
    ),
    "hostile conf values, tar or file names from the pod, links, a pickled checkpoint -> refused or inert": (
        "cluster/test_faults.py::test_hostile_names_from_the_pod_are_refused_or_inert",
        "cluster/test_kube_files.py::test_a_path_outside_the_folder_is_refused_before_anything_is_asked",
        "cluster/test_kube_files.py::test_links_and_files_that_are_not_there_are_errors",
        "launcher/test_render.py::test_a_hostile_value_is_a_value_and_nothing_else",
        "launcher/test_fetching.py::test_hostile_names_are_refused_before_anything_is_written",
        "launcher/test_fetching.py::test_nothing_is_written_through_a_link",
        "launcher/conf/test_yaml_source.py::test_a_tower_of_aliases_is_refused_and_not_built",
        "trainer/test_checkpoints.py::test_a_pickled_checkpoint_runs_nothing",
    ),
    "admission refuses, quota, unbound PVC, no such GPU, image pull error -> `status` and `submit` say which, with the fix": (
        "cluster/test_kube_causes.py::test_a_policy_of_the_site",
        "cluster/test_kube_causes.py::test_more_than_a_limit_range_allows",
        "cluster/test_kube_causes.py::test_a_volume_that_cannot_be_mounted",
        "cluster/test_kube_causes.py::test_held_in_a_queue",
        "cluster/test_kube_status.py::test_a_used_up_quota",
        "cluster/test_kube_status.py::test_a_claim_that_is_not_bound_or_not_there",
        "cluster/test_kube_status.py::test_a_gpu_type_that_no_node_has",
        "cluster/test_kube_status.py::test_too_many_gpus",
        "cluster/test_kube_status.py::test_an_image_that_is_nowhere",
        "cluster/test_kube_status.py::test_a_root_pod_in_a_restricted_namespace",
        "cluster/test_site_rules.py::test_submit_names_the_policy_s_words_our_rule_and_the_fix",
    ),
}


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Names of the tests that a file defines."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("fault", TABLE)
def test_each_fault_has_tests_that_inject_it(fault: str) -> None:
    """One of them on a real cluster."""
    named = TABLE[fault]
    assert any(name.startswith("cluster/") for name in named)
    for name in named:
        file, _, test = name.partition("::")
        assert test in defined_in(TESTS / file), f"{file} has no {test}"
