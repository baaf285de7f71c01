-- fleetscore, PostgreSQL, schema version 1. Applied in one transaction under an advisory lock.
-- Names without `_data` are what users query; base tables may change between versions.

CREATE TABLE fleetscore_meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO fleetscore_meta VALUES
    ('made_by', 'fleetscore'),
    ('schema_version', '1'),
    ('store_id', gen_random_uuid()::text);

-- One row: how panes are made (NULL until the first aggregator pins them) and what readiness is judged by.
CREATE TABLE setting_data (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    pane_us         bigint,
    edges           text,
    filter          text,
    value           text,
    ts_unit         text,
    max_disorder_us bigint NOT NULL DEFAULT 10000000,
    owner_ttl_us    bigint NOT NULL DEFAULT 30000000,
    max_wait_us     bigint NOT NULL DEFAULT 600000000,
    newest_pane     timestamptz,
    newest_at       timestamptz, -- when it was first seen
    fleet_silent    boolean NOT NULL DEFAULT false,
    forgotten_until   timestamptz, -- of runs that were forgotten: the end of the last interval, the greatest attempt
    forgotten_attempt bigint
);
INSERT INTO setting_data DEFAULT VALUES;

-- Names compare as bytes, so that every store orders them alike.
CREATE TABLE series_data (
    id     integer PRIMARY KEY,
    device text COLLATE "C" NOT NULL,
    sensor text COLLATE "C" NOT NULL,
    UNIQUE (device, sensor)
);

CREATE TABLE progress_data (
    source           text COLLATE "C" NOT NULL,
    topic            text COLLATE "C" NOT NULL,
    kafka_partition  integer NOT NULL,
    next_offset      bigint NOT NULL,
    end_offset       bigint,
    watermark        timestamptz,
    quiet_at         timestamptz,
    floor            timestamptz,
    epoch            bigint NOT NULL DEFAULT 0,
    owner            text,
    owner_seen_at    timestamptz,
    last_broker_time timestamptz,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, topic, kafka_partition)
) WITH (fillfactor = 50); -- rewritten by every checkpoint: keep the new versions on the page

-- Mergeable partial aggregates. `version` counts the merges.
CREATE TABLE pane_data (
    pane_start  timestamptz NOT NULL,
    series_id   integer NOT NULL,
    count       bigint NOT NULL,
    sum         double precision NOT NULL,
    m2          double precision NOT NULL,
    min         double precision NOT NULL,
    max         double precision NOT NULL,
    first_ts    timestamptz NOT NULL,
    first_value double precision NOT NULL,
    last_ts     timestamptz NOT NULL,
    last_value  double precision NOT NULL,
    version     bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (pane_start, series_id)
) PARTITION BY RANGE (pane_start);

-- Every pane that has or is about to have data: lets views of longer windows find their starts without reading panes.
CREATE TABLE pane_index_data (
    pane_start timestamptz PRIMARY KEY
);

-- A queue without a cursor: the planner deletes what it has dealt with.
CREATE TABLE changed_pane_data (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pane_start timestamptz NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE dead_letter_data (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic           text COLLATE "C" NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL,
    position        integer NOT NULL,
    code            text COLLATE "C" NOT NULL,
    detail          text NOT NULL,
    payload         bytea,
    broker_time     timestamptz,
    recorded_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    replayed_at     timestamptz,
    count           bigint NOT NULL DEFAULT 1,
    last_offset     bigint,
    sensors         text
);

CREATE TABLE loss_event_data (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source          text COLLATE "C" NOT NULL,
    topic           text COLLATE "C" NOT NULL,
    kafka_partition integer NOT NULL,
    from_offset     bigint NOT NULL,
    to_offset       bigint NOT NULL,
    detail          text NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE schedule_data (
    name             text COLLATE "C" PRIMARY KEY,
    window_us        bigint NOT NULL,
    hop_us           bigint NOT NULL,
    settings         jsonb NOT NULL, -- all of them, as configured last
    revision         bigint NOT NULL DEFAULT 0,
    first_interval   timestamptz,
    covered_until    timestamptz,
    pause_id         uuid,
    paused_at        timestamptz,
    paused_by        text,
    looked_at        timestamptz,
    missed_until     timestamptz,
    missed_newest    timestamptz,
    fired_at         timestamptz,
    released_until   timestamptz,
    roster_until     timestamptz,
    thinned_until    timestamptz,
    thinned_to       text, -- what was kept
    has_view         boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Fires of cron schedules, made or not; a row stands for several where nobody looked.
CREATE TABLE fire_data (
    schedule     text COLLATE "C" NOT NULL,
    fire_at      timestamptz NOT NULL,
    last_fire_at timestamptz NOT NULL,
    fires        bigint NOT NULL,
    reason       text, -- why not; NULL: it was made
    recorded_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule, fire_at)
);
CREATE INDEX fire_data_recorded ON fire_data (recorded_at);
CREATE INDEX fire_data_last ON fire_data (last_fire_at);

CREATE TABLE run_data (
    run_id         uuid PRIMARY KEY,
    schedule       text COLLATE "C" NOT NULL,
    interval_start timestamptz NOT NULL,
    interval_end   timestamptz NOT NULL,
    state          text NOT NULL,
    cause          text NOT NULL,
    model_set      bigint,
    scored         bigint NOT NULL DEFAULT 0,
    anomalies      bigint NOT NULL DEFAULT 0,
    no_data        bigint NOT NULL DEFAULT 0,
    no_model       bigint NOT NULL DEFAULT 0,
    model_error    bigint NOT NULL DEFAULT 0,
    input_invalid  bigint NOT NULL DEFAULT 0,
    attempt        bigint NOT NULL DEFAULT 0,
    opened_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at     timestamptz,
    finished_at    timestamptz,
    error          text,
    note           text, -- what was known when it was opened; shown as the error where there is none
    data_only      boolean NOT NULL DEFAULT false,
    scope          text NOT NULL DEFAULT 'all',
    series         text,
    shards         integer NOT NULL DEFAULT 0,
    shards_done    integer NOT NULL DEFAULT 0,
    shards_failed  integer NOT NULL DEFAULT 0,
    changed        boolean NOT NULL DEFAULT false, -- some row of a shard that is done
    open_us        bigint NOT NULL DEFAULT 0,
    read_us        bigint NOT NULL DEFAULT 0,
    score_us       bigint NOT NULL DEFAULT 0,
    write_us       bigint NOT NULL DEFAULT 0,
    retry_of       uuid,
    stalled_at     timestamptz,
    log            text
) WITH (fillfactor = 80); -- rewritten by the end of every shard
-- An interval has one open run per schedule.
CREATE UNIQUE INDEX run_data_open ON run_data (schedule, interval_start) WHERE state IN ('waiting', 'running');
CREATE INDEX run_data_interval ON run_data (schedule, interval_start, opened_at);
CREATE INDEX run_data_newest ON run_data (interval_start);
CREATE INDEX run_data_finished ON run_data (finished_at);
CREATE INDEX run_data_rescore ON run_data (schedule, opened_at) WHERE cause = 'rescore';
CREATE INDEX run_data_skipped ON run_data (finished_at) WHERE state = 'skipped';
CREATE INDEX run_data_unlogged ON run_data (finished_at) WHERE log IS NULL AND state IN ('succeeded', 'partial', 'failed', 'cancelled');

CREATE TABLE run_event_data (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    event  text NOT NULL,
    shard  integer,
    worker text,
    detail text
);
CREATE INDEX run_event_data_run ON run_event_data (run_id, id);

-- One row per interval and shard for all of its runs: `attempt` only rises, and is the fence of every commit.
-- `state` is `waiting`, `open`, `done`, `failed` or `cancelled`; an open one with an unexpired lease is being worked on.
CREATE TABLE run_task_data (
    schedule       text COLLATE "C" NOT NULL,
    interval_start timestamptz NOT NULL,
    shard          integer NOT NULL,
    interval_end   timestamptz NOT NULL,
    run_id         uuid NOT NULL,
    state          text NOT NULL,
    series_from    integer NOT NULL DEFAULT 0,
    series_until   integer, -- NULL: to the end
    attempt        bigint NOT NULL DEFAULT 0,
    tries          bigint NOT NULL DEFAULT 0, -- of this run, less what was handed back
    failures       bigint NOT NULL DEFAULT 0, -- tries of this run that failed and were counted
    worker         text,
    lease_until    timestamptz,
    not_before     timestamptz, -- the pause after a failure
    opened_at      timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    scored         bigint NOT NULL DEFAULT 0,
    anomalies      bigint NOT NULL DEFAULT 0,
    no_data        bigint NOT NULL DEFAULT 0,
    no_model       bigint NOT NULL DEFAULT 0,
    model_error    bigint NOT NULL DEFAULT 0,
    input_invalid  bigint NOT NULL DEFAULT 0,
    open_us        bigint NOT NULL DEFAULT 0,
    read_us        bigint NOT NULL DEFAULT 0,
    score_us       bigint NOT NULL DEFAULT 0,
    write_us       bigint NOT NULL DEFAULT 0,
    error          text,
    PRIMARY KEY (schedule, interval_start, shard)
) WITH (fillfactor = 80);
-- In the order in which tasks are claimed.
CREATE INDEX run_task_data_open ON run_task_data (opened_at, interval_start, schedule, shard) WHERE state = 'open';
CREATE INDEX run_task_data_run ON run_task_data (run_id);

-- Series with a model that sent nothing, from the first interval without data on; `ended_at` is the start of the first
-- with data again.
CREATE TABLE silence_data (
    schedule   text COLLATE "C" NOT NULL,
    series_id  integer NOT NULL,
    since      timestamptz NOT NULL,
    noticed_at timestamptz, -- longer than the limit: part of an event
    ended_at   timestamptz,
    PRIMARY KEY (series_id, schedule, since)
);
CREATE UNIQUE INDEX silence_data_open ON silence_data (schedule, series_id) WHERE ended_at IS NULL;
CREATE INDEX silence_data_since ON silence_data (since);
CREATE INDEX silence_data_ended ON silence_data (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX silence_data_unnoticed ON silence_data (schedule, since) WHERE ended_at IS NULL AND noticed_at IS NULL;

-- What an operator should know, oldest first.
CREATE TABLE event_data (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind     text NOT NULL,
    schedule text COLLATE "C",
    run_id   uuid,
    series   bigint, -- how many
    detail   text NOT NULL
);
CREATE INDEX event_data_at ON event_data (at);

CREATE TABLE prediction_data (
    schedule       text COLLATE "C" NOT NULL,
    window_start   timestamptz NOT NULL,
    series_id      integer NOT NULL,
    window_end     timestamptz NOT NULL,
    value          double precision,
    prediction     smallint,
    decision       double precision,
    status         text NOT NULL,
    model_set      bigint,
    model          text,
    window_version bigint NOT NULL,
    normal_range   text,
    run_id         uuid NOT NULL,
    scored_at      timestamptz NOT NULL DEFAULT now(), -- one time for all rows of a commit
    -- Replaced rows leave duplicate entries: to look for some to merge costs a third of the writing, for nothing.
    PRIMARY KEY (schedule, window_start, series_id) WITH (deduplicate_items = off)
) PARTITION BY RANGE (window_start);
-- Who is silent, who has no model, what failed: without a look at all that went well.
CREATE INDEX prediction_data_status ON prediction_data (schedule, window_start, status, series_id)
    WHERE status <> 'scored';

-- What a series came to in the last interval that was thinned to its changes.
CREATE TABLE thin_state_data (
    schedule   text COLLATE "C" NOT NULL,
    series_id  integer NOT NULL,
    status     text NOT NULL,
    prediction smallint,
    PRIMARY KEY (schedule, series_id)
);

CREATE TABLE publication_data (
    schedule         text COLLATE "C" NOT NULL,
    interval_start   timestamptz NOT NULL,
    interval_end     timestamptz NOT NULL,
    change           bigint NOT NULL,
    published_change bigint NOT NULL DEFAULT 0,
    published_at     timestamptz,
    fence            bigint NOT NULL DEFAULT 0,
    worker           text,
    lease_until      timestamptz,
    not_before       timestamptz, -- postponed
    PRIMARY KEY (schedule, interval_start)
);
CREATE INDEX publication_data_due ON publication_data (interval_start) WHERE change > published_change;

CREATE SEQUENCE model_set_version;
CREATE TABLE model_set_data (
    version      bigint PRIMARY KEY,
    path         text NOT NULL,
    models       bigint NOT NULL,
    refused      bigint NOT NULL,
    origin       text NOT NULL,
    checksum     text NOT NULL,
    features     text[] NOT NULL DEFAULT '{}',
    trained_from timestamptz,
    trained_to   timestamptz,
    training_rows bigint,
    note         text,
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- What was refused when the set was made.
CREATE TABLE model_failure_data (
    version bigint NOT NULL REFERENCES model_set_data,
    number  bigint NOT NULL,
    device  text COLLATE "C",
    sensor  text COLLATE "C",
    source  text NOT NULL,
    reason  text NOT NULL,
    PRIMARY KEY (version, number)
);
CREATE INDEX model_failure_data_series ON model_failure_data (version, device, sensor);
-- Series that are scored by one set whichever is active.
CREATE TABLE model_pin_data (
    series_id integer PRIMARY KEY REFERENCES series_data,
    version   bigint NOT NULL REFERENCES model_set_data,
    pinned_by text NOT NULL,
    pinned_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- The active set is that of the newest activation that was not undone; a rollback undoes one.
CREATE TABLE model_set_activation_data (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version      bigint NOT NULL REFERENCES model_set_data,
    activated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    undone_at    timestamptz
);

-- a / n. Operators of PostgreSQL refuse a result that underflows, so a sum that small counts as zero.
CREATE FUNCTION fleetscore_mean(a double precision, n bigint) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN n = 1 THEN a WHEN abs(a) < 1e-300 THEN 0.0 ELSE a / n END;

-- d², zero where it would underflow.
CREATE FUNCTION fleetscore_square(d double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN abs(d) < 1e-150 THEN 0.0 ELSE d * d END;

-- The end of the newest interval that is ready: an interval is ready if it ends at or before `until`. Per partition:
-- the watermark has passed the end, or the partition is quiet, or its owner is silent for too long. No rows: NULL.
-- What a schedule dealt with was ready, and stays it when quietness ends with its owner.
CREATE VIEW ready_until AS
SELECT greatest(min(CASE
        WHEN now() - coalesce(p.owner_seen_at, p.created_at) > s.max_wait_us * interval '1 microsecond'
        THEN 'infinity'::timestamptz
        ELSE greatest(
            '-infinity'::timestamptz,
            p.watermark - CASE s.edges WHEN 'end' THEN interval '1 microsecond' ELSE interval '0' END,
            CASE WHEN now() - p.owner_seen_at <= s.owner_ttl_us * interval '1 microsecond'
                THEN p.quiet_at - s.max_disorder_us * interval '1 microsecond' END)
    END), (SELECT max(covered_until) FROM schedule_data)) AS until
FROM progress_data p CROSS JOIN setting_data s;

CREATE VIEW windows AS
SELECT p.pane_start AS window_start,
    p.pane_start + (SELECT pane_us * interval '1 microsecond' FROM setting_data) AS window_end,
    n.device, n.sensor,
    p.count AS readings, p.sum,
    fleetscore_mean(p.sum, p.count) AS mean,
    CASE WHEN p.count > 1 THEN sqrt(fleetscore_mean(p.m2, p.count - 1)) END AS stddev,
    p.min, p.max, p.first_value AS first, p.last_value AS last, p.version,
    coalesce(p.pane_start + (SELECT pane_us * interval '1 microsecond' FROM setting_data)
        <= (SELECT until FROM ready_until), false) AS ready
FROM pane_data p JOIN series_data n ON n.id = p.series_id
WHERE p.pane_start >= coalesce((SELECT max(floor) FROM progress_data), '-infinity');

-- `stale` compares with the version of the window now: one look-up by key per pane of the window, never a range over
-- all series. (`unnest(ARRAY(…))` because the planner takes any array for ten rows and any generate_series for a
-- thousand, and a column as dear as that drowns the cost of a bad join.)
CREATE VIEW predictions AS
SELECT p.schedule, p.window_start, p.window_end, n.device, n.sensor, p.value, p.prediction, p.decision, p.status,
    p.model_set, p.model, p.window_version,
    p.window_start >= coalesce((SELECT max(floor) FROM progress_data), '-infinity')
        AND p.window_version <> coalesce((
            SELECT sum((SELECT d.version FROM pane_data d WHERE d.pane_start = g.pane_start AND d.series_id = p.series_id))
            FROM unnest(ARRAY(SELECT generate_series(p.window_start,
                p.window_end - (SELECT pane_us * interval '1 microsecond' FROM setting_data),
                (SELECT pane_us * interval '1 microsecond' FROM setting_data)))) AS g(pane_start)), 0) AS stale,
    p.run_id, p.scored_at, p.normal_range
FROM prediction_data p JOIN series_data n ON n.id = p.series_id;

CREATE VIEW anomalies AS SELECT * FROM predictions WHERE prediction = 1;

CREATE VIEW dead_letters AS
SELECT id, topic, kafka_partition, kafka_offset, position, code, detail, payload, broker_time, recorded_at, replayed_at,
    count, last_offset, sensors
FROM dead_letter_data;

CREATE VIEW loss_events AS
SELECT id, topic, kafka_partition, from_offset, to_offset, detail, recorded_at, source FROM loss_event_data;

CREATE VIEW progress AS
SELECT source, topic, kafka_partition, next_offset, end_offset, watermark, owner, owner_seen_at, updated_at,
    quiet_at, floor, epoch, last_broker_time, created_at
FROM progress_data;

CREATE VIEW schedules AS
SELECT name, window_us / 1e6::float8 AS window_s, hop_us / 1e6::float8 AS hop_s,
    ARRAY(SELECT jsonb_array_elements_text(settings -> 'features')) AS features,
    CASE jsonb_typeof(settings -> 'trigger') WHEN 'object' THEN 'cron' ELSE settings ->> 'trigger' END AS trigger,
    settings #>> '{trigger,cron,expression}' AS cron, settings #>> '{trigger,cron,time_zone}' AS time_zone,
    (settings ->> 'enabled')::boolean AS enabled, paused_at, paused_by,
    settings ->> 'series' AS series, (settings ->> 'model_set')::bigint AS model_set,
    settings ->> 'catch_up' AS catch_up,
    (settings ->> 'max_age_us')::bigint / 1e6::float8 AS max_age_s,
    (settings ->> 'max_runs')::bigint AS max_runs,
    (settings ->> 'rescore_delay_us')::bigint / 1e6::float8 AS rescore_delay_s,
    (settings ->> 'republish_gap_us')::bigint / 1e6::float8 AS republish_gap_s,
    revision, first_interval, covered_until, looked_at, fired_at, created_at, settings
FROM schedule_data;

-- What was passed over: fires of cron schedules, and ranges of intervals.
CREATE VIEW fires AS
SELECT schedule, fire_at, last_fire_at, fires, reason IS NULL AS made, reason, recorded_at,
    NULL::timestamptz AS interval_start, NULL::timestamptz AS interval_end
FROM fire_data
UNION ALL
SELECT schedule, NULL, NULL, NULL, false, coalesce(error, note), finished_at, interval_start, interval_end
FROM run_data WHERE state = 'skipped';

CREATE VIEW runs AS
SELECT run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, no_data, no_model,
    model_error, input_invalid, attempt, started_at, finished_at, coalesce(error, note) AS error,
    data_only, opened_at, scope, series, shards, shards_done, shards_failed, open_us / 1e6::float8 AS open_s,
    read_us / 1e6::float8 AS read_s, score_us / 1e6::float8 AS score_s, write_us / 1e6::float8 AS write_s, retry_of,
    stalled_at, log
FROM run_data;

CREATE VIEW run_events AS
SELECT run_id, at, event, shard, worker, detail, id FROM run_event_data;

CREATE VIEW run_tasks AS
SELECT schedule, interval_start, interval_end, shard, run_id, state, attempt, worker, lease_until, updated_at,
    tries, series_from, series_until, scored, anomalies, no_data, no_model, model_error, input_invalid,
    open_us / 1e6::float8 AS open_s, read_us / 1e6::float8 AS read_s, score_us / 1e6::float8 AS score_s,
    write_us / 1e6::float8 AS write_s, not_before, error, failures
FROM run_task_data;

-- Series that have a model and are silent, or were.
CREATE VIEW silences AS
SELECT s.schedule, n.device, n.sensor, s.since, s.ended_at, s.noticed_at
FROM silence_data s JOIN series_data n ON n.id = s.series_id;

CREATE VIEW events AS
SELECT id, at, kind, schedule, run_id, series, detail FROM event_data;

CREATE VIEW publications AS
SELECT schedule, interval_start, interval_end, change > published_change AS due, published_at, fence, worker, lease_until
FROM publication_data;

CREATE VIEW model_sets AS
SELECT m.version, m.path,
    m.version IS NOT DISTINCT FROM (
        SELECT a.version FROM model_set_activation_data a WHERE a.undone_at IS NULL ORDER BY a.id DESC LIMIT 1) AS active,
    m.models, m.refused, m.origin, m.checksum, m.trained_from, m.trained_to, m.created_by, m.created_at,
    m.features, m.training_rows, m.note
FROM model_set_data m;

CREATE VIEW model_failures AS
SELECT version AS model_set, device, sensor, source, reason FROM model_failure_data;

CREATE VIEW model_pins AS
SELECT n.device, n.sensor, p.version AS model_set, p.pinned_by, p.pinned_at
FROM model_pin_data p JOIN series_data n ON n.id = p.series_id;
