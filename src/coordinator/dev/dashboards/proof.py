"""For proof, checkpoints and divergences, and for figures of use, which are no money."""

from __future__ import annotations

from coordinator.dev.dashboards.panels import RATE, Dashboard, Panel

COMPLETED_IN_A_DAY = 'sum by (service) (increase(coordinator_job_run_seconds_count{outcome="completed"}[1d]))'
WORKED_IN_A_DAY = (
    'sum by (service) (increase(coordinator_job_run_seconds_sum{outcome="completed"}[1d])) / 3600'
)
PROOF = Dashboard(
    "coordinator-proof",
    "Coordinator: proof and figures",
    [
        (
            "Proof now",
            [
                Panel(
                    "Divergences",
                    "Checks that found another log than the signed one. Anything but 0 is an emergency.",
                    [("sum(coordinator_audit_divergences)", "")],
                    kind="stat",
                ),
                Panel(
                    "Events in the last checkpoint",
                    "The size of the signed log.",
                    [("max(coordinator_checkpoint_events)", "")],
                    kind="stat",
                ),
                Panel(
                    "Age of the last checkpoint",
                    "It is not signed again while the log does not grow.",
                    [("min(coordinator_checkpoint_age_seconds)", "")],
                    "s",
                    "stat",
                ),
                Panel(
                    "Unsigned positions",
                    "Between the last checkpoint and the end of the log.",
                    [("min(coordinator_checkpoint_lag_positions)", "")],
                    kind="stat",
                ),
                Panel(
                    "Witnesses",
                    "Those that sign, and those in the settings.",
                    [
                        ("max(coordinator_witnesses_signing)", "sign"),
                        ("max(coordinator_witnesses)", "in the settings"),
                    ],
                    kind="stat",
                ),
            ],
        ),
        (
            "Checkpoints",
            [
                Panel(
                    "Age",
                    "Of the last checkpoint.",
                    [("min(coordinator_checkpoint_age_seconds)", "age")],
                    "s",
                ),
                Panel(
                    "Unsigned positions",
                    "Events wait about a second for their checkpoint.",
                    [("min(coordinator_checkpoint_lag_positions)", "positions")],
                ),
                Panel(
                    "Growth of the signed log",
                    "Events in a second.",
                    [(f"sum(deriv(coordinator_checkpoint_events{RATE}))", "events")],
                    "ops",
                ),
                Panel(
                    "Divergences by check",
                    "1 while a check finds another log than the one that was signed.",
                    [("max by (check) (coordinator_audit_divergences)", "{{check}}")],
                ),
            ],
        ),
        (
            "Events",
            [
                Panel(
                    "Events by topic",
                    "Appended in a second.",
                    [(f"sum by (topic) (rate(coordinator_events_total{RATE}))", "{{topic}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Position of the log",
                    "It has gaps.",
                    [("max(coordinator_log_position)", "position")],
                ),
            ],
        ),
        (
            "Figures of use",
            [
                Panel(
                    "Jobs completed in a day",
                    "By service.",
                    [
                        (
                            COMPLETED_IN_A_DAY,
                            "{{service}}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "Hours of work in a day",
                    "Of completed attempts, by service.",
                    [
                        (
                            WORKED_IN_A_DAY,
                            "{{service}}",
                        )
                    ],
                    stacked=True,
                ),
                Panel(
                    "Stored bytes",
                    "Payloads, results and uploads.",
                    [("max by (kind) (coordinator_stored_bytes)", "{{kind}}")],
                    "bytes",
                    stacked=True,
                ),
                Panel(
                    "Names",
                    "Of keys that use anything, and those with limits of their own.",
                    [
                        ("max(coordinator_quota_names)", "use anything"),
                        ("max(coordinator_quota_own_limits)", "have limits of their own"),
                    ],
                ),
                Panel(
                    "Refused by a limit",
                    "Commands and uploads in an hour, by the limit.",
                    [("sum by (limit) (increase(coordinator_quota_refusals_total[1h]))", "{{limit}}")],
                ),
            ],
        ),
    ],
)
