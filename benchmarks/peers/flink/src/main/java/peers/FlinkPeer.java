package peers;

import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.Statement;
import java.time.LocalDateTime;
import java.time.ZoneId;
import java.time.ZoneOffset;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.table.api.Table;
import org.apache.flink.table.api.bridge.java.StreamTableEnvironment;
import org.apache.flink.table.data.RowData;

/** One-minute windows per device and sensor in Flink SQL, from a topic's beginning to its end of now. */
public final class FlinkPeer {
    private static final Tally TALLY = new Tally();

    /** Takes every window and keeps nothing of it: a black hole that counts. */
    private static final class Counting implements Sink<RowData> {
        @Override
        public SinkWriter<RowData> createWriter(WriterInitContext context) {
            return new SinkWriter<>() {
                @Override
                public void write(RowData row, Context context) {
                    TALLY.add(row.getTimestamp(0, 3).getMillisecond(), row.getString(1).toBytes(), row.getString(2).toBytes(),
                            row.getLong(3), row.getDouble(4), row.getDouble(5), row.getDouble(6));
                    Tally.checkAverage(row.getDouble(7), row.getDouble(4), row.getLong(3));
                }

                @Override
                public void flush(boolean endOfInput) {}

                @Override
                public void close() {}
            };
        }
    }

    public static void main(String[] args) throws Exception {
        Options options = new Options(args, "--bootstrap", "--topic", "--sink=blackhole", "--pg-url=", "--packed=1",
                "--checkpoint-ms=1000", "--parallelism=" + Runtime.getRuntime().availableProcessors());
        boolean postgres = options.oneOf("--sink", "blackhole", "postgres").equals("postgres");
        long packed = options.number("--packed");
        try (Scratch checkpoints = Scratch.create("flink-peer-")) {
            StreamExecutionEnvironment env = environment(options, checkpoints);
            StreamTableEnvironment sql = StreamTableEnvironment.create(env);
            sql.getConfig().setLocalTimeZone(ZoneId.of("UTC"));
            // Of a message that is an array, the format makes a row of each of its elements: no UNNEST is needed.
            sql.executeSql("CREATE TABLE readings (device STRING, sensor STRING, ts TIMESTAMP_LTZ(3), `value` DOUBLE,"
                    + " WATERMARK FOR ts AS ts - INTERVAL '10' SECOND) WITH ('connector' = 'kafka',"
                    + " 'topic' = '" + options.text("--topic") + "',"
                    + " 'properties.bootstrap.servers' = '" + options.text("--bootstrap") + "',"
                    + " 'properties.interceptor.classes' = '" + Meter.class.getName() + "',"
                    + " 'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',"
                    + " 'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601')");
            String windows = "SELECT window_start, device, sensor, COUNT(*), SUM(`value`), MIN(`value`), MAX(`value`), AVG(`value`)"
                    + " FROM TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' MINUTE)"
                    + " GROUP BY window_start, window_end, device, sensor";
            if (postgres) {
                String url = jdbc(options.text("--pg-url"));
                createTable(url);
                sql.executeSql("CREATE TABLE peer_windows (pane TIMESTAMP(3), device STRING, sensor STRING, n BIGINT,"
                        + " total DOUBLE, least DOUBLE, most DOUBLE, mean DOUBLE, PRIMARY KEY (pane, device, sensor) NOT ENFORCED)"
                        + " WITH ('connector' = 'jdbc', 'url' = '" + url + "', 'table-name' = 'peer_windows',"
                        + " 'sink.buffer-flush.max-rows' = '5000', 'sink.buffer-flush.interval' = '1s')");
                sql.executeSql("INSERT INTO peer_windows " + windows).await();
                Meter.done();
                readTable(url);
            } else {
                Table table = sql.sqlQuery(windows);
                DataStream<RowData> rows =
                        sql.toDataStream(table, table.getResolvedSchema().toPhysicalRowDataType().bridgedTo(RowData.class));
                rows.sinkTo(new Counting());
                env.execute();
                Meter.done();
            }
        }
        Meter.print("Flink 2.2.0 SQL, " + options.text("--sink") + (packed > 1 ? ", " + packed + " readings per message" : ""),
                packed > 1 ? TALLY.count() : Meter.messages(), TALLY);
    }

    private static StreamExecutionEnvironment environment(Options options, Scratch checkpoints) {
        Configuration c = new Configuration();
        c.setString("parallelism.default", options.text("--parallelism"));
        c.setString("execution.checkpointing.interval", options.text("--checkpoint-ms") + " ms");
        c.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        // In files: what is kept in the manager's memory may have 5 MB.
        c.setString("execution.checkpointing.storage", "filesystem");
        c.setString("execution.checkpointing.dir", checkpoints.path().toUri().toString());
        // With checkpoints the default is to start again for ever, and to log nothing of it.
        c.setString("restart-strategy.type", "none");
        c.setString("pipeline.object-reuse", "true");
        c.setString("taskmanager.memory.managed.size", "256m");
        return StreamExecutionEnvironment.getExecutionEnvironment(c);
    }

    /** The address in the form of Java's driver; it then writes a batch in one statement. */
    private static String jdbc(String url) {
        if (!url.startsWith("jdbc:")) {
            URI uri = URI.create(url);
            String[] user = (uri.getUserInfo() == null ? "postgres" : uri.getUserInfo()).split(":", 2);
            url = "jdbc:postgresql://" + uri.getHost() + ":" + (uri.getPort() < 0 ? 5432 : uri.getPort()) + uri.getPath()
                    + "?user=" + user[0] + (user.length > 1 ? "&password=" + user[1] : "");
        }
        return url + (url.contains("?") ? "&" : "?") + "reWriteBatchedInserts=true";
    }

    private static void createTable(String url) throws Exception {
        try (Connection connection = DriverManager.getConnection(url); Statement statement = connection.createStatement()) {
            statement.execute("DROP TABLE IF EXISTS peer_windows");
            statement.execute("CREATE TABLE peer_windows (pane timestamp(3) NOT NULL, device text NOT NULL, sensor text NOT NULL,"
                    + " n bigint NOT NULL, total double precision NOT NULL, least double precision NOT NULL,"
                    + " most double precision NOT NULL, mean double precision NOT NULL, PRIMARY KEY (pane, device, sensor))");
        }
    }

    private static void readTable(String url) throws Exception {
        try (Connection connection = DriverManager.getConnection(url)) {
            connection.setAutoCommit(false); // else the driver holds the whole table
            Statement statement = connection.createStatement();
            statement.setFetchSize(10_000);
            ResultSet row = statement.executeQuery("SELECT pane, device, sensor, n, total, least, most, mean FROM peer_windows");
            while (row.next()) {
                long pane = row.getObject(1, LocalDateTime.class).toInstant(ZoneOffset.UTC).toEpochMilli();
                TALLY.add(pane, row.getString(2), row.getString(3), row.getLong(4), row.getDouble(5), row.getDouble(6), row.getDouble(7));
                Tally.checkAverage(row.getDouble(8), row.getDouble(5), row.getLong(4));
            }
        }
    }
}
