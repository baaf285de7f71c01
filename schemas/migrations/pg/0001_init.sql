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
    max_wait_us     bigint NOT NULL DEFAULT 600000000
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
    features         text[] NOT NULL,
    catch_up         text NOT NULL,
    max_age_us       bigint,
    rescore_delay_us bigint NOT NULL,
    republish_gap_us bigint NOT NULL,
    revision         bigint NOT NULL DEFAULT 0,
    first_interval   timestamptz,
    covered_until    timestamptz,
    has_view         boolean NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

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
    data_only      boolean NOT NULL DEFAULT false
);
-- An interval has one open run per schedule.
CREATE UNIQUE INDEX run_data_open ON run_data (schedule, interval_start) WHERE state IN ('waiting', 'running');
CREATE INDEX run_data_interval ON run_data (schedule, interval_start, opened_at);
CREATE INDEX run_data_newest ON run_data (interval_start);

-- One row per interval and shard for all of its runs: `attempt` only rises, and is the fence of every commit.
-- `state` is `waiting`, `open` or `done`, as its present run is; an open one with an unexpired lease is being worked on.
CREATE TABLE run_task_data (
    schedule       text COLLATE "C" NOT NULL,
    interval_start timestamptz NOT NULL,
    shard          integer NOT NULL,
    interval_end   timestamptz NOT NULL,
    run_id         uuid NOT NULL,
    state          text NOT NULL,
    attempt        bigint NOT NULL DEFAULT 0,
    worker         text,
    lease_until    timestamptz,
    opened_at      timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule, interval_start, shard)
);
-- In the order in which tasks are claimed.
CREATE INDEX run_task_data_open ON run_task_data (opened_at, interval_start, schedule, shard) WHERE state = 'open';
CREATE INDEX run_task_data_run ON run_task_data (run_id);

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
SELECT name, window_us / 1e6::float8 AS window_s, hop_us / 1e6::float8 AS hop_s, features, catch_up,
    max_age_us / 1e6::float8 AS max_age_s, rescore_delay_us / 1e6::float8 AS rescore_delay_s,
    republish_gap_us / 1e6::float8 AS republish_gap_s, revision, first_interval, covered_until, created_at
FROM schedule_data;

CREATE VIEW runs AS
SELECT run_id, schedule, interval_start, interval_end, state, cause, model_set, scored, anomalies, no_data, no_model,
    model_error, input_invalid, attempt, started_at, finished_at, coalesce(error, note) AS error,
    data_only, opened_at
FROM run_data;

CREATE VIEW run_tasks AS
SELECT schedule, interval_start, interval_end, shard, run_id, state, attempt, worker, lease_until, updated_at
FROM run_task_data;

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
