-- fleetscore, SQLite, schema version 1. Applied in one transaction.
-- Names without `_data` are what users query; base tables may change between versions.
-- Times are integer microseconds since the epoch in tables, and fixed-width RFC 3339 text in views. The views use
-- nothing but what every sqlite3 of the last years has: no math functions.

CREATE TABLE fleetscore_meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO fleetscore_meta VALUES ('made_by', 'fleetscore'), ('schema_version', '1'), ('last_model_set', '0');

-- One row: how panes are made (NULL until the first aggregator pins them) and what readiness is judged by.
CREATE TABLE setting_data (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    pane_us         INTEGER,
    edges           TEXT,
    filter          TEXT,
    value           TEXT,
    ts_unit         TEXT,
    max_disorder_us INTEGER NOT NULL DEFAULT 10000000,
    owner_ttl_us    INTEGER NOT NULL DEFAULT 30000000,
    max_wait_us     INTEGER NOT NULL DEFAULT 600000000,
    newest_pane     INTEGER,
    newest_at       INTEGER, -- when it was first seen
    fleet_silent    INTEGER NOT NULL DEFAULT 0,
    forgotten_until   INTEGER, -- of runs that were forgotten: the end of the last interval, the greatest attempt
    forgotten_attempt INTEGER
);
INSERT INTO setting_data (one) VALUES (1);

-- AUTOINCREMENT: an id is never given twice.
CREATE TABLE series_data (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    device TEXT NOT NULL,
    sensor TEXT NOT NULL,
    UNIQUE (device, sensor)
);

CREATE TABLE progress_data (
    source           TEXT NOT NULL,
    topic            TEXT NOT NULL,
    kafka_partition  INTEGER NOT NULL,
    next_offset      INTEGER NOT NULL,
    end_offset       INTEGER,
    watermark        INTEGER,
    quiet_at         INTEGER,
    floor            INTEGER,
    epoch            INTEGER NOT NULL DEFAULT 0,
    owner            TEXT,
    owner_seen_at    INTEGER,
    last_broker_time INTEGER,
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    PRIMARY KEY (source, topic, kafka_partition)
) WITHOUT ROWID;

-- Mergeable partial aggregates. `version` counts the merges; `stddev` is kept because there may be no sqrt() to
-- compute it when read.
CREATE TABLE pane_data (
    pane_start  INTEGER NOT NULL,
    series_id   INTEGER NOT NULL REFERENCES series_data,
    count       INTEGER NOT NULL,
    sum         REAL NOT NULL,
    m2          REAL NOT NULL,
    min         REAL NOT NULL,
    max         REAL NOT NULL,
    first_ts    INTEGER NOT NULL,
    first_value REAL NOT NULL,
    last_ts     INTEGER NOT NULL,
    last_value  REAL NOT NULL,
    stddev      REAL,
    version     INTEGER NOT NULL,
    PRIMARY KEY (pane_start, series_id)
) WITHOUT ROWID;

-- A queue without a cursor: the planner deletes what it has dealt with.
CREATE TABLE changed_pane_data (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    pane_start INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
);

CREATE TABLE dead_letter_data (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic           TEXT NOT NULL,
    kafka_partition INTEGER NOT NULL,
    kafka_offset    INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    code            TEXT NOT NULL,
    detail          TEXT NOT NULL,
    payload         BLOB,
    broker_time     INTEGER,
    recorded_at     INTEGER NOT NULL,
    replayed_at     INTEGER,
    count           INTEGER NOT NULL,
    last_offset     INTEGER,
    sensors         TEXT
);

CREATE TABLE loss_event_data (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    source          TEXT NOT NULL,
    topic           TEXT NOT NULL,
    kafka_partition INTEGER NOT NULL,
    from_offset     INTEGER NOT NULL,
    to_offset       INTEGER NOT NULL,
    detail          TEXT NOT NULL,
    recorded_at     INTEGER NOT NULL
);

CREATE TABLE schedule_data (
    name             TEXT PRIMARY KEY,
    window_us        INTEGER NOT NULL,
    hop_us           INTEGER NOT NULL,
    settings         TEXT NOT NULL, -- all of them as JSON, as configured last
    revision         INTEGER NOT NULL DEFAULT 0,
    first_interval   INTEGER,
    covered_until    INTEGER,
    pause_id         TEXT,
    paused_at        INTEGER,
    paused_by        TEXT,
    looked_at        INTEGER,
    missed_until     INTEGER,
    missed_newest    INTEGER,
    fired_at         INTEGER,
    released_until   INTEGER,
    roster_until     INTEGER,
    thinned_until    INTEGER,
    thinned_to       TEXT, -- what was kept
    has_view         INTEGER NOT NULL DEFAULT 0,
    created_at       INTEGER NOT NULL
) WITHOUT ROWID;

-- Fires of cron schedules, made or not; a row stands for several where nobody looked.
CREATE TABLE fire_data (
    schedule     TEXT NOT NULL,
    fire_at      INTEGER NOT NULL,
    last_fire_at INTEGER NOT NULL,
    fires        INTEGER NOT NULL,
    reason       TEXT, -- why not; NULL: it was made
    recorded_at  INTEGER NOT NULL,
    PRIMARY KEY (schedule, fire_at)
) WITHOUT ROWID;
CREATE INDEX fire_data_last ON fire_data (last_fire_at);

CREATE TABLE run_data (
    run_id         TEXT PRIMARY KEY,
    schedule       TEXT NOT NULL,
    interval_start INTEGER NOT NULL,
    interval_end   INTEGER NOT NULL,
    state          TEXT NOT NULL,
    cause          TEXT NOT NULL,
    model_set      INTEGER,
    scored         INTEGER NOT NULL DEFAULT 0,
    anomalies      INTEGER NOT NULL DEFAULT 0,
    no_data        INTEGER NOT NULL DEFAULT 0,
    no_model       INTEGER NOT NULL DEFAULT 0,
    model_error    INTEGER NOT NULL DEFAULT 0,
    input_invalid  INTEGER NOT NULL DEFAULT 0,
    attempt        INTEGER NOT NULL DEFAULT 0,
    opened_at      INTEGER NOT NULL,
    started_at     INTEGER,
    finished_at    INTEGER,
    error          TEXT,
    note           TEXT, -- what was known when it was opened; shown as the error where there is none
    data_only      INTEGER NOT NULL DEFAULT 0,
    scope          TEXT NOT NULL DEFAULT 'all',
    series         TEXT,
    shards         INTEGER NOT NULL DEFAULT 0,
    shards_done    INTEGER NOT NULL DEFAULT 0,
    shards_failed  INTEGER NOT NULL DEFAULT 0,
    changed        INTEGER NOT NULL DEFAULT 0, -- some row of a shard that is done
    open_us        INTEGER NOT NULL DEFAULT 0,
    read_us        INTEGER NOT NULL DEFAULT 0,
    score_us       INTEGER NOT NULL DEFAULT 0,
    write_us       INTEGER NOT NULL DEFAULT 0,
    retry_of       TEXT,
    stalled_at     INTEGER,
    log            TEXT
) WITHOUT ROWID;
-- An interval has one open run per schedule.
CREATE UNIQUE INDEX run_data_open ON run_data (schedule, interval_start) WHERE state IN ('waiting', 'running');
CREATE INDEX run_data_interval ON run_data (schedule, interval_start, opened_at);
CREATE INDEX run_data_newest ON run_data (interval_start);
CREATE INDEX run_data_finished ON run_data (finished_at);
CREATE INDEX run_data_rescore ON run_data (schedule, opened_at) WHERE cause = 'rescore';
CREATE INDEX run_data_skipped ON run_data (schedule, interval_start) WHERE state = 'skipped';
CREATE INDEX run_data_unlogged ON run_data (finished_at)
    WHERE log IS NULL AND state IN ('succeeded', 'partial', 'failed', 'cancelled');

CREATE TABLE run_event_data (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL,
    at     INTEGER NOT NULL,
    event  TEXT NOT NULL,
    shard  INTEGER,
    worker TEXT,
    detail TEXT
);
CREATE INDEX run_event_data_run ON run_event_data (run_id, id);

-- One row per interval and shard for all of its runs: `attempt` only rises, and is the fence of every commit.
-- `state` is `waiting`, `open`, `done`, `failed` or `cancelled`; an open one with an unexpired lease is being worked on.
CREATE TABLE run_task_data (
    schedule       TEXT NOT NULL,
    interval_start INTEGER NOT NULL,
    shard          INTEGER NOT NULL,
    interval_end   INTEGER NOT NULL,
    run_id         TEXT NOT NULL,
    state          TEXT NOT NULL,
    series_from    INTEGER NOT NULL DEFAULT 0,
    series_until   INTEGER, -- NULL: to the end
    attempt        INTEGER NOT NULL DEFAULT 0,
    tries          INTEGER NOT NULL DEFAULT 0, -- of this run, less what was handed back
    failures       INTEGER NOT NULL DEFAULT 0, -- tries of this run that failed and were counted
    worker         TEXT,
    lease_until    INTEGER,
    not_before     INTEGER, -- the pause after a failure
    opened_at      INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    scored         INTEGER NOT NULL DEFAULT 0,
    anomalies      INTEGER NOT NULL DEFAULT 0,
    no_data        INTEGER NOT NULL DEFAULT 0,
    no_model       INTEGER NOT NULL DEFAULT 0,
    model_error    INTEGER NOT NULL DEFAULT 0,
    input_invalid  INTEGER NOT NULL DEFAULT 0,
    open_us        INTEGER NOT NULL DEFAULT 0,
    read_us        INTEGER NOT NULL DEFAULT 0,
    score_us       INTEGER NOT NULL DEFAULT 0,
    write_us       INTEGER NOT NULL DEFAULT 0,
    error          TEXT,
    PRIMARY KEY (schedule, interval_start, shard)
) WITHOUT ROWID;
-- In the order in which tasks are claimed.
CREATE INDEX run_task_data_open ON run_task_data (opened_at, interval_start, schedule, shard) WHERE state = 'open';
CREATE INDEX run_task_data_run ON run_task_data (run_id);

-- Series with a model that sent nothing, from the first interval without data on; `ended_at` is the start of the first
-- with data again.
CREATE TABLE silence_data (
    series_id  INTEGER NOT NULL REFERENCES series_data,
    schedule   TEXT NOT NULL,
    since      INTEGER NOT NULL,
    noticed_at INTEGER, -- longer than the limit: part of an event
    ended_at   INTEGER,
    PRIMARY KEY (series_id, schedule, since)
) WITHOUT ROWID;
CREATE UNIQUE INDEX silence_data_open ON silence_data (schedule, series_id) WHERE ended_at IS NULL;
CREATE INDEX silence_data_ended ON silence_data (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX silence_data_unnoticed ON silence_data (schedule, since) WHERE ended_at IS NULL AND noticed_at IS NULL;

-- What an operator should know, oldest first.
CREATE TABLE event_data (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    schedule TEXT,
    run_id   TEXT,
    series   INTEGER, -- how many
    detail   TEXT NOT NULL
);
CREATE INDEX event_data_at ON event_data (at);

CREATE TABLE prediction_data (
    schedule       TEXT NOT NULL,
    window_start   INTEGER NOT NULL,
    series_id      INTEGER NOT NULL REFERENCES series_data,
    window_end     INTEGER NOT NULL,
    value          REAL,
    prediction     INTEGER,
    decision       REAL,
    status         TEXT NOT NULL,
    model_set      INTEGER,
    model          TEXT,
    window_version INTEGER NOT NULL,
    normal_range   TEXT,
    run_id         TEXT NOT NULL,
    scored_at      INTEGER NOT NULL,
    PRIMARY KEY (schedule, window_start, series_id)
) WITHOUT ROWID;
CREATE INDEX prediction_data_anomaly ON prediction_data (window_start) WHERE prediction = 1;
-- Who is silent, who has no model, what failed: without a look at all that went well.
CREATE INDEX prediction_data_status ON prediction_data (schedule, window_start, status, series_id)
    WHERE status <> 'scored';

-- What a series came to in the last interval that was thinned to its changes, and the interval of its last change.
CREATE TABLE thin_state_data (
    schedule     TEXT NOT NULL,
    series_id    INTEGER NOT NULL,
    status       TEXT NOT NULL,
    prediction   INTEGER,
    window_start INTEGER NOT NULL,
    PRIMARY KEY (schedule, series_id)
) WITHOUT ROWID;

CREATE TABLE publication_data (
    schedule         TEXT NOT NULL,
    interval_start   INTEGER NOT NULL,
    interval_end     INTEGER NOT NULL,
    change           INTEGER NOT NULL,
    published_change INTEGER NOT NULL DEFAULT 0,
    published_at     INTEGER,
    fence            INTEGER NOT NULL DEFAULT 0,
    worker           TEXT,
    lease_until      INTEGER,
    not_before       INTEGER, -- postponed
    PRIMARY KEY (schedule, interval_start)
) WITHOUT ROWID;
CREATE INDEX publication_data_due ON publication_data (interval_start, schedule) WHERE change > published_change;

CREATE TABLE model_set_data (
    version      INTEGER PRIMARY KEY,
    path         TEXT NOT NULL,
    models       INTEGER NOT NULL,
    refused      INTEGER NOT NULL,
    origin       TEXT NOT NULL,
    checksum     TEXT NOT NULL,
    features     TEXT NOT NULL DEFAULT '',
    trained_from INTEGER,
    trained_to   INTEGER,
    training_rows INTEGER,
    note         TEXT,
    created_by   TEXT NOT NULL,
    created_at   INTEGER NOT NULL
);
-- What was refused when the set was made.
CREATE TABLE model_failure_data (
    version INTEGER NOT NULL REFERENCES model_set_data,
    number  INTEGER NOT NULL,
    device  TEXT,
    sensor  TEXT,
    source  TEXT NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (version, number)
) WITHOUT ROWID;
CREATE INDEX model_failure_data_series ON model_failure_data (version, device, sensor);
-- Series that are scored by one set whichever is active.
CREATE TABLE model_pin_data (
    series_id INTEGER PRIMARY KEY REFERENCES series_data,
    version   INTEGER NOT NULL REFERENCES model_set_data,
    pinned_by TEXT NOT NULL,
    pinned_at INTEGER NOT NULL
);
-- The active set is that of the newest activation that was not undone; a rollback undoes one.
CREATE TABLE model_set_activation_data (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    version      INTEGER NOT NULL REFERENCES model_set_data,
    activated_at INTEGER NOT NULL,
    undone_at    INTEGER
);

-- One row, in microseconds: an interval is ready if it ends at or before `until`. Per partition: the watermark has
-- passed the end, or the partition is quiet, or its owner has been silent for too long. Without partitions: none.
-- What a schedule dealt with was ready, and stays it when quietness ends with its owner.
CREATE VIEW ready_until AS
SELECT max(coalesce(min(CASE
        WHEN n.now - coalesce(p.owner_seen_at, p.created_at) > s.max_wait_us THEN 9000000000000000000
        ELSE max(
            coalesce(p.watermark - (s.edges = 'end'), -9000000000000000000),
            coalesce(CASE WHEN n.now - p.owner_seen_at <= s.owner_ttl_us THEN p.quiet_at - s.max_disorder_us END,
                -9000000000000000000))
    END), -9000000000000000000),
    (SELECT coalesce(max(covered_until), -9000000000000000000) FROM schedule_data)) AS until
FROM progress_data p CROSS JOIN setting_data s
    CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) AS now) n;

-- Panes and windows start at whole seconds.
CREATE VIEW windows AS
SELECT strftime('%Y-%m-%dT%H:%M:%S.000000Z', p.pane_start / 1000000, 'unixepoch') AS window_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', (p.pane_start + (SELECT pane_us FROM setting_data)) / 1000000, 'unixepoch')
        AS window_end,
    n.device, n.sensor, p.count AS readings, p.sum, p.sum / p.count AS mean, p.stddev, p.min, p.max,
    p.first_value AS first, p.last_value AS last, p.version,
    coalesce(p.pane_start + (SELECT pane_us FROM setting_data) <= (SELECT until FROM ready_until), 0) AS ready
FROM pane_data p JOIN series_data n ON n.id = p.series_id
WHERE p.pane_start >= (SELECT coalesce(max(floor), 0) FROM progress_data);

-- The version of the window now: one look-up by key per pane of the window, never a range over all series.
CREATE VIEW predictions AS
SELECT p.schedule,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', p.window_start / 1000000, 'unixepoch') AS window_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', p.window_end / 1000000, 'unixepoch') AS window_end,
    n.device, n.sensor, p.value, p.prediction, p.decision, p.status, p.model_set, p.model, p.window_version,
    p.window_start >= (SELECT coalesce(max(floor), 0) FROM progress_data) AND p.window_version <> CASE
        WHEN p.window_end - p.window_start = (SELECT pane_us FROM setting_data)
        THEN coalesce((SELECT d.version FROM pane_data d
            WHERE d.pane_start = p.window_start AND d.series_id = p.series_id), 0)
        ELSE (
            WITH RECURSIVE pane(start) AS (
                SELECT p.window_start
                UNION ALL
                SELECT start + (SELECT pane_us FROM setting_data) FROM pane
                WHERE start + (SELECT pane_us FROM setting_data) < p.window_end)
            SELECT coalesce(sum(d.version), 0)
            FROM pane CROSS JOIN pane_data d ON d.pane_start = pane.start AND d.series_id = p.series_id)
        END AS stale,
    p.run_id,
    strftime('%Y-%m-%dT%H:%M:%S', p.scored_at / 1000000, 'unixepoch') || printf('.%06dZ', p.scored_at % 1000000)
        AS scored_at,
    p.normal_range
FROM prediction_data p JOIN series_data n ON n.id = p.series_id;

CREATE VIEW anomalies AS SELECT * FROM predictions WHERE prediction = 1;

CREATE VIEW dead_letters AS
SELECT id, topic, kafka_partition, kafka_offset, position, code, detail, payload,
    strftime('%Y-%m-%dT%H:%M:%S', broker_time / 1000000, 'unixepoch') || printf('.%06dZ', broker_time % 1000000)
        AS broker_time,
    strftime('%Y-%m-%dT%H:%M:%S', recorded_at / 1000000, 'unixepoch') || printf('.%06dZ', recorded_at % 1000000)
        AS recorded_at,
    strftime('%Y-%m-%dT%H:%M:%S', replayed_at / 1000000, 'unixepoch') || printf('.%06dZ', replayed_at % 1000000)
        AS replayed_at,
    count, last_offset, sensors
FROM dead_letter_data;

CREATE VIEW loss_events AS
SELECT id, topic, kafka_partition, from_offset, to_offset, detail,
    strftime('%Y-%m-%dT%H:%M:%S', recorded_at / 1000000, 'unixepoch') || printf('.%06dZ', recorded_at % 1000000)
        AS recorded_at,
    source
FROM loss_event_data;

CREATE VIEW progress AS
SELECT source, topic, kafka_partition, next_offset, end_offset,
    strftime('%Y-%m-%dT%H:%M:%S', watermark / 1000000, 'unixepoch') || printf('.%06dZ', watermark % 1000000)
        AS watermark,
    owner,
    strftime('%Y-%m-%dT%H:%M:%S', owner_seen_at / 1000000, 'unixepoch') || printf('.%06dZ', owner_seen_at % 1000000)
        AS owner_seen_at,
    strftime('%Y-%m-%dT%H:%M:%S', updated_at / 1000000, 'unixepoch') || printf('.%06dZ', updated_at % 1000000)
        AS updated_at,
    strftime('%Y-%m-%dT%H:%M:%S', quiet_at / 1000000, 'unixepoch') || printf('.%06dZ', quiet_at % 1000000) AS quiet_at,
    strftime('%Y-%m-%dT%H:%M:%S', floor / 1000000, 'unixepoch') || printf('.%06dZ', floor % 1000000) AS floor,
    epoch,
    strftime('%Y-%m-%dT%H:%M:%S', last_broker_time / 1000000, 'unixepoch')
        || printf('.%06dZ', last_broker_time % 1000000) AS last_broker_time,
    strftime('%Y-%m-%dT%H:%M:%S', created_at / 1000000, 'unixepoch') || printf('.%06dZ', created_at % 1000000)
        AS created_at
FROM progress_data;

CREATE VIEW schedules AS
SELECT name, window_us / 1000000.0 AS window_s, hop_us / 1000000.0 AS hop_s,
    (SELECT group_concat(value, ',') FROM json_each(settings, '$.features')) AS features,
    CASE json_type(settings, '$.trigger') WHEN 'object' THEN 'cron' ELSE json_extract(settings, '$.trigger') END
        AS "trigger",
    json_extract(settings, '$.trigger.cron.expression') AS cron,
    json_extract(settings, '$.trigger.cron.time_zone') AS time_zone,
    json_extract(settings, '$.enabled') AS enabled,
    strftime('%Y-%m-%dT%H:%M:%S', paused_at / 1000000, 'unixepoch') || printf('.%06dZ', paused_at % 1000000)
        AS paused_at,
    paused_by, json_extract(settings, '$.series') AS series, json_extract(settings, '$.model_set') AS model_set,
    json_extract(settings, '$.catch_up') AS catch_up,
    json_extract(settings, '$.max_age_us') / 1000000.0 AS max_age_s,
    json_extract(settings, '$.max_runs') AS max_runs,
    json_extract(settings, '$.rescore_delay_us') / 1000000.0 AS rescore_delay_s,
    json_extract(settings, '$.republish_gap_us') / 1000000.0 AS republish_gap_s,
    revision,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', first_interval / 1000000, 'unixepoch') AS first_interval,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', covered_until / 1000000, 'unixepoch') AS covered_until,
    strftime('%Y-%m-%dT%H:%M:%S', looked_at / 1000000, 'unixepoch') || printf('.%06dZ', looked_at % 1000000)
        AS looked_at,
    strftime('%Y-%m-%dT%H:%M:%S', fired_at / 1000000, 'unixepoch') || printf('.%06dZ', fired_at % 1000000)
        AS fired_at,
    strftime('%Y-%m-%dT%H:%M:%S', created_at / 1000000, 'unixepoch') || printf('.%06dZ', created_at % 1000000)
        AS created_at,
    settings
FROM schedule_data;

-- What was passed over: fires of cron schedules, and ranges of intervals.
CREATE VIEW fires AS
SELECT schedule,
    strftime('%Y-%m-%dT%H:%M:%S', fire_at / 1000000, 'unixepoch') || printf('.%06dZ', fire_at % 1000000)
        AS fire_at,
    strftime('%Y-%m-%dT%H:%M:%S', last_fire_at / 1000000, 'unixepoch') || printf('.%06dZ', last_fire_at % 1000000)
        AS last_fire_at,
    fires, reason IS NULL AS made, reason,
    strftime('%Y-%m-%dT%H:%M:%S', recorded_at / 1000000, 'unixepoch') || printf('.%06dZ', recorded_at % 1000000)
        AS recorded_at,
    NULL AS interval_start, NULL AS interval_end
FROM fire_data
UNION ALL
SELECT schedule, NULL, NULL, NULL, 0, coalesce(error, note),
    strftime('%Y-%m-%dT%H:%M:%S', coalesce(finished_at, opened_at) / 1000000, 'unixepoch') || printf('.%06dZ', coalesce(finished_at, opened_at) % 1000000)
        AS recorded_at,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_start / 1000000, 'unixepoch') AS interval_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_end / 1000000, 'unixepoch') AS interval_end
FROM run_data WHERE state = 'skipped';

CREATE VIEW runs AS
SELECT run_id, schedule,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_start / 1000000, 'unixepoch') AS interval_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_end / 1000000, 'unixepoch') AS interval_end,
    state, cause, model_set, scored, anomalies, no_data, no_model, model_error, input_invalid, attempt,
    strftime('%Y-%m-%dT%H:%M:%S', started_at / 1000000, 'unixepoch') || printf('.%06dZ', started_at % 1000000)
        AS started_at,
    strftime('%Y-%m-%dT%H:%M:%S', finished_at / 1000000, 'unixepoch') || printf('.%06dZ', finished_at % 1000000)
        AS finished_at,
    coalesce(error, note) AS error, data_only,
    strftime('%Y-%m-%dT%H:%M:%S', opened_at / 1000000, 'unixepoch') || printf('.%06dZ', opened_at % 1000000)
        AS opened_at,
    scope, series, shards, shards_done, shards_failed, open_us / 1000000.0 AS open_s, read_us / 1000000.0 AS read_s,
    score_us / 1000000.0 AS score_s, write_us / 1000000.0 AS write_s, retry_of,
    strftime('%Y-%m-%dT%H:%M:%S', stalled_at / 1000000, 'unixepoch') || printf('.%06dZ', stalled_at % 1000000)
        AS stalled_at,
    log
FROM run_data;

CREATE VIEW run_events AS
SELECT run_id,
    strftime('%Y-%m-%dT%H:%M:%S', at / 1000000, 'unixepoch') || printf('.%06dZ', at % 1000000)
        AS at,
    event, shard, worker, detail, id
FROM run_event_data;

CREATE VIEW run_tasks AS
SELECT schedule,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_start / 1000000, 'unixepoch') AS interval_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_end / 1000000, 'unixepoch') AS interval_end,
    shard, run_id, state, attempt, worker,
    strftime('%Y-%m-%dT%H:%M:%S', lease_until / 1000000, 'unixepoch') || printf('.%06dZ', lease_until % 1000000)
        AS lease_until,
    strftime('%Y-%m-%dT%H:%M:%S', updated_at / 1000000, 'unixepoch') || printf('.%06dZ', updated_at % 1000000)
        AS updated_at,
    tries, series_from, series_until, scored, anomalies, no_data, no_model, model_error, input_invalid,
    open_us / 1000000.0 AS open_s, read_us / 1000000.0 AS read_s, score_us / 1000000.0 AS score_s,
    write_us / 1000000.0 AS write_s,
    strftime('%Y-%m-%dT%H:%M:%S', not_before / 1000000, 'unixepoch') || printf('.%06dZ', not_before % 1000000)
        AS not_before,
    error, failures
FROM run_task_data;

-- Series that have a model and are silent, or were.
CREATE VIEW silences AS
SELECT s.schedule, n.device, n.sensor,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', s.since / 1000000, 'unixepoch') AS since,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', s.ended_at / 1000000, 'unixepoch') AS ended_at,
    strftime('%Y-%m-%dT%H:%M:%S', s.noticed_at / 1000000, 'unixepoch') || printf('.%06dZ', s.noticed_at % 1000000)
        AS noticed_at
FROM silence_data s JOIN series_data n ON n.id = s.series_id;

CREATE VIEW events AS
SELECT id,
    strftime('%Y-%m-%dT%H:%M:%S', at / 1000000, 'unixepoch') || printf('.%06dZ', at % 1000000)
        AS at,
    kind, schedule, run_id, series, detail
FROM event_data;

CREATE VIEW publications AS
SELECT schedule,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_start / 1000000, 'unixepoch') AS interval_start,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', interval_end / 1000000, 'unixepoch') AS interval_end,
    change > published_change AS due,
    strftime('%Y-%m-%dT%H:%M:%S', published_at / 1000000, 'unixepoch') || printf('.%06dZ', published_at % 1000000)
        AS published_at,
    fence, worker,
    strftime('%Y-%m-%dT%H:%M:%S', lease_until / 1000000, 'unixepoch') || printf('.%06dZ', lease_until % 1000000)
        AS lease_until
FROM publication_data;

CREATE VIEW model_sets AS
SELECT m.version, m.path,
    m.version IS (SELECT a.version FROM model_set_activation_data a
        WHERE a.undone_at IS NULL ORDER BY a.id DESC LIMIT 1) AS active,
    m.models, m.refused, m.origin, m.checksum,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', m.trained_from / 1000000, 'unixepoch') AS trained_from,
    strftime('%Y-%m-%dT%H:%M:%S.000000Z', m.trained_to / 1000000, 'unixepoch') AS trained_to,
    m.created_by,
    strftime('%Y-%m-%dT%H:%M:%S', m.created_at / 1000000, 'unixepoch') || printf('.%06dZ', m.created_at % 1000000)
        AS created_at,
    m.features, m.training_rows, m.note
FROM model_set_data m;

CREATE VIEW model_failures AS
SELECT version AS model_set, device, sensor, source, reason FROM model_failure_data;

CREATE VIEW model_pins AS
SELECT n.device, n.sensor, p.version AS model_set, p.pinned_by,
    strftime('%Y-%m-%dT%H:%M:%S', p.pinned_at / 1000000, 'unixepoch') || printf('.%06dZ', p.pinned_at % 1000000)
        AS pinned_at
FROM model_pin_data p JOIN series_data n ON n.id = p.series_id;
