"""For the operator who keeps it running: commands, requests, followers, servers."""

from __future__ import annotations

from coordinator.dev.dashboards.panels import RATE, Dashboard, Panel, quantiles

OPERATIONS = Dashboard(
    "coordinator-operations",
    "Coordinator: operations",
    [
        (
            "Now",
            [
                Panel(
                    "Processes",
                    "Coordinators that answer.",
                    [('sum(up{job="coordinator"})', "")],
                    kind="stat",
                ),
                Panel(
                    "Failing parts",
                    "Parts of `/health` that fail, over all processes; `/health` says why.",
                    [("count(coordinator_part_up == bool 0) - sum(coordinator_part_up)", "")],
                    kind="stat",
                ),
                Panel(
                    "Jobs that wait",
                    "Jobs without a miner.",
                    [("max(coordinator_jobs_queued)", "")],
                    kind="stat",
                ),
                Panel(
                    "Oldest of them",
                    "How long the oldest job has waited.",
                    [("max(coordinator_oldest_queued_job_seconds)", "")],
                    "s",
                    "stat",
                ),
                Panel(
                    "Least free disk",
                    "Of all disks that a process writes to.",
                    [("min(coordinator_disk_free_bytes / coordinator_disk_size_bytes)", "")],
                    "percentunit",
                    "stat",
                ),
                Panel(
                    "Dead letters",
                    "Messages that could not be handled and wait for an operator.",
                    [('max(coordinator_queue_messages{queue="coordinator.dead"}) or vector(0)', "")],
                    kind="stat",
                ),
            ],
        ),
        (
            "Commands and commits",
            [
                Panel(
                    "Commands",
                    "Answered commands, and refusals among them.",
                    [
                        (f"sum(rate(coordinator_commands_total{RATE}))", "answered"),
                        (f"sum(rate(coordinator_refusals_total{RATE}))", "refused"),
                    ],
                    "ops",
                ),
                Panel(
                    "Refusals by code",
                    "Why commands were refused.",
                    [(f"sum by (code) (rate(coordinator_refusals_total{RATE}))", "{{code}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Duration of commits",
                    "Appends to the log: the wait for the disk.",
                    quantiles("coordinator_commit_duration_seconds"),
                    "s",
                ),
                Panel(
                    "Commands in a commit",
                    "The more at once, the fewer waits for the disk.",
                    quantiles("coordinator_batch_commands"),
                ),
            ],
        ),
        (
            "Requests",
            [
                Panel(
                    "Requests by status",
                    "Answered HTTP requests.",
                    [(f"sum by (status) (rate(coordinator_http_requests_total{RATE}))", "{{status}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Duration of requests",
                    "Long polls and waits for results are left out.",
                    quantiles(
                        "coordinator_http_request_duration_seconds",
                        where='{operation!~"poll|get_result|.*stream.*"}',
                    ),
                    "s",
                ),
                Panel(
                    "Requests under way",
                    "Not answered yet, long polls among them.",
                    [("sum by (instance) (coordinator_http_requests_under_way)", "{{instance}}")],
                ),
            ],
        ),
        (
            "Followers and leadership",
            [
                Panel(
                    "Lag",
                    "Positions behind the end of the log, in the process that leads.",
                    [("max by (follower) (coordinator_follower_lag_positions)", "{{follower}}")],
                ),
                Panel(
                    "Standing still",
                    "Seconds without progress, behind the log.",
                    [("max by (follower) (coordinator_follower_stalled_seconds)", "{{follower}}")],
                    "s",
                ),
                Panel(
                    "Leaders",
                    "How many processes lead each follower: one, and for a moment none at a takeover.",
                    [('sum by (follower) (coordinator_follower_status{status="leading"})', "{{follower}}")],
                ),
                Panel(
                    "Changes of leadership",
                    "In the last hour.",
                    [
                        (
                            'sum by (follower) (changes(coordinator_follower_status{status="leading"}[1h]))',
                            "{{follower}}",
                        )
                    ],
                ),
            ],
        ),
        (
            "Broker, database, disk, process",
            [
                Panel(
                    "Messages that wait",
                    "On the permanent queues of RabbitMQ.",
                    [("max by (queue) (coordinator_queue_messages)", "{{queue}}")],
                ),
                Panel(
                    "Consumers",
                    "Of commands and heartbeats: as many as there are processes.",
                    [
                        (
                            'max by (queue) (coordinator_queue_consumers{queue=~".*commands|.*heartbeats"})',
                            "{{queue}}",
                        )
                    ],
                ),
                Panel(
                    "Publishes by outcome",
                    "Messages to RabbitMQ with a confirm.",
                    [(f"sum by (outcome) (rate(coordinator_broker_publishes_total{RATE}))", "{{outcome}}")],
                    "ops",
                ),
                Panel(
                    "Servers",
                    "1 while RabbitMQ and the tables are in reach.",
                    [
                        ("min(coordinator_broker_up)", "broker"),
                        ("min(coordinator_tables_up)", "tables"),
                        ("sum(increase(coordinator_broker_disconnections_total[1h]))", "lost in an hour"),
                    ],
                ),
                Panel(
                    "Free disk",
                    "Of the disks that each process writes to.",
                    [("min by (instance, volume) (coordinator_disk_free_bytes)", "{{instance}} {{volume}}")],
                    "bytes",
                ),
                Panel(
                    "Processor",
                    "Seconds of a processor in a second.",
                    [(f'rate(process_cpu_seconds_total{{job="coordinator"}}{RATE})', "{{instance}}")],
                    "percentunit",
                ),
                Panel(
                    "Memory",
                    "Resident.",
                    [('process_resident_memory_bytes{job="coordinator"}', "{{instance}}")],
                    "bytes",
                ),
            ],
        ),
    ],
)
