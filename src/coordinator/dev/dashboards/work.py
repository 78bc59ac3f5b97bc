"""For the work: jobs, their times, miners and slots."""

from __future__ import annotations

from coordinator.dev.dashboards.panels import RATE, Dashboard, Panel, quantiles

COMPLETED = f'sum by (service) (rate(coordinator_job_run_seconds_count{{outcome="completed"}}{RATE}))'
WORK = Dashboard(
    "coordinator-work",
    "Coordinator: miners and work",
    [
        (
            "Now",
            [
                Panel(
                    "Miners",
                    "With a session that takes work.",
                    [('sum(coordinator_miners{state="ONLINE"})', "")],
                    kind="stat",
                ),
                Panel(
                    "Slots", "Jobs that they can run at once.", [("sum(coordinator_slots)", "")], kind="stat"
                ),
                Panel(
                    "Slots in use",
                    "Of those slots.",
                    [("sum(coordinator_slots_busy) / clamp_min(sum(coordinator_slots), 1)", "")],
                    "percentunit",
                    "stat",
                ),
                Panel(
                    "Running", "Jobs that miners hold.", [("sum(coordinator_jobs_running)", "")], kind="stat"
                ),
                Panel(
                    "Waiting", "Jobs without a miner.", [("max(coordinator_jobs_queued)", "")], kind="stat"
                ),
                Panel(
                    "Profiles",
                    "Kinds of miners; with the kinds of jobs in memory.",
                    [("sum(coordinator_profiles)", "of miners"), ("sum(coordinator_classes)", "of jobs")],
                    kind="stat",
                ),
            ],
        ),
        (
            "Jobs",
            [
                Panel(
                    "Submitted and completed",
                    "Jobs in a second.",
                    [
                        (
                            f'sum(rate(coordinator_events_total{{topic="job.submitted.v1"}}{RATE}))',
                            "submitted",
                        ),
                        (
                            f'sum(rate(coordinator_events_total{{topic="job.completed.v1"}}{RATE}))',
                            "completed",
                        ),
                    ],
                    "ops",
                ),
                Panel(
                    "Attempts by outcome",
                    "How attempts ended.",
                    [(f"sum by (outcome) (rate(coordinator_job_run_seconds_count{RATE}))", "{{outcome}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Share of attempts that complete",
                    "By service.",
                    [
                        (
                            f"{COMPLETED} / sum by (service) (rate(coordinator_job_run_seconds_count{RATE}))",
                            "{{service}}",
                        )
                    ],
                    "percentunit",
                ),
                Panel(
                    "Jobs by place",
                    "Where jobs are now.",
                    [
                        ("max(coordinator_jobs_queued)", "waiting"),
                        ("sum(coordinator_jobs_offered)", "offered"),
                        ("sum(coordinator_jobs_running)", "running"),
                    ],
                ),
            ],
        ),
        (
            "Times",
            [
                Panel(
                    "Queue delay",
                    "From the moment when an attempt could be claimed to its claim.",
                    quantiles("coordinator_job_queue_delay_seconds"),
                    "s",
                ),
                Panel(
                    "Queue delay by service",
                    "The slowest hundredth.",
                    quantiles("coordinator_job_queue_delay_seconds", by="service")[2:],
                    "s",
                ),
                Panel(
                    "Run time by service",
                    "From claim to end: the median and the slowest tenth.",
                    quantiles("coordinator_job_run_seconds", by="service")[:2],
                    "s",
                ),
                Panel(
                    "Slots of miners at work",
                    "Seconds of attempts that ended in a second, by service: the slots that it keeps busy.",
                    [(f"sum by (service) (rate(coordinator_job_run_seconds_sum{RATE}))", "{{service}}")],
                    stacked=True,
                ),
            ],
        ),
        (
            "Miners",
            [
                Panel(
                    "Sessions",
                    "By state.",
                    [("sum by (state) (coordinator_miners)", "{{state}}")],
                    stacked=True,
                ),
                Panel(
                    "Slots",
                    "All, and those in use.",
                    [("sum(coordinator_slots)", "all"), ("sum(coordinator_slots_busy)", "in use")],
                ),
                Panel(
                    "Coming and going",
                    "Events of miners in an hour.",
                    [
                        (
                            'sum by (topic) (increase(coordinator_events_total{topic=~"miner.*"}[1h]))',
                            "{{topic}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)
