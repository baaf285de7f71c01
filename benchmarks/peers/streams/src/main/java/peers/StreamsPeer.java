package peers;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.kstream.WindowedSerdes;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;
import org.apache.kafka.streams.state.WindowStore;

/**
 * One-minute windows per device and sensor in Kafka Streams, from a topic's beginning to its end of now, into a topic of its own.
 *
 * <p>A record's key must be its device. A device's sensors share one state value: keyed by device and sensor, every reading would go
 * through a repartition topic first.
 */
public final class StreamsPeer {
    public static void main(String[] args) throws Exception {
        Options options = new Options(args, "--bootstrap", "--topic", "--guarantee=eos", "--threads=2", "--commit-ms=1000",
                "--store=rocksdb");
        boolean exactlyOnce = options.oneOf("--guarantee", "eos", "alo").equals("eos");
        String topic = options.text("--topic");
        String application = "streams-peer-" + ProcessHandle.current().pid() + "-" + System.currentTimeMillis();
        String output = application + "-windows";

        Serde<Reading> readings = Serdes.serdeFrom((t, r) -> null, (t, bytes) -> Reading.parse(bytes));
        Serde<Window> windows = Serdes.serdeFrom((t, w) -> w == null ? null : w.toBytes(), (t, b) -> b == null ? null : Window.fromBytes(b));
        Serde<Windowed<String>> keys = WindowedSerdes.timeWindowedSerdeFrom(String.class, 60_000);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), readings)
                        .withTimestampExtractor((record, time) -> ((Reading) record.value()).ts()))
                .groupByKey()
                .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofSeconds(10)))
                .aggregate(
                        Window::new,
                        (device, reading, window) -> {
                            if (!device.equals(reading.device())) throw new IllegalArgumentException("a key that is no device: " + device);
                            return window.add(reading);
                        },
                        Materialized.<String, Window, WindowStore<Bytes, byte[]>>as("windows").withKeySerde(Serdes.String()).withValueSerde(windows))
                .toStream()
                .to(output, Produced.with(keys, windows));

        Tally tally = new Tally();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("--bootstrap")));
                Scratch state = Scratch.create("streams-peer-")) {
            Map<TopicPartition, Long> ends = ends(options, topic);
            long messages = ends.values().stream().mapToLong(Long::longValue).sum();
            // Its records have the times of their windows: a broker that keeps seven days of records would drop old ones at once.
            admin.createTopics(List.of(new NewTopic(output, ends.size(), (short) 1).configs(Map.of("retention.ms", "-1")))).all().get();
            AtomicReference<Throwable> failure = new AtomicReference<>();
            KafkaStreams streams = new KafkaStreams(builder.build(), properties(options, application, state));
            try {
                streams.setUncaughtExceptionHandler(e -> {
                    failure.compareAndSet(null, e);
                    return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                });
                streams.start();
                while (Meter.messages() < messages || !committed(admin, application, ends)) {
                    if (failure.get() != null) throw new IllegalStateException("the topology failed", failure.get());
                    Thread.sleep(50);
                }
                Meter.done();
                readOutput(options, output, keys, tally);
            } finally {
                streams.close(Duration.ofSeconds(20));
                admin.deleteTopics(admin.listTopics().names().get().stream().filter(t -> t.startsWith(application)).toList()).all().get();
            }
        }
        Meter.print("Kafka Streams 4.3.1, " + (exactlyOnce ? "exactly once v2" : "at least once") + ", store in " + options.text("--store"),
                Meter.messages(), tally);
        System.exit(0); // whatever thread is left
    }

    private static Properties properties(Options options, String application, Scratch state) {
        Properties p = new Properties();
        p.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.text("--bootstrap"));
        p.put(StreamsConfig.STATE_DIR_CONFIG, state.path().toString());
        p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
                options.text("--guarantee").equals("eos") ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
        p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.text("--threads"));
        p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, options.text("--commit-ms"));
        // So much that a window's updates are forwarded once for each commit.
        p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 512L << 20);
        p.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG,
                options.oneOf("--store", "rocksdb", "memory").equals("memory")
                        ? BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class
                        : BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class);
        p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.INTERCEPTOR_CLASSES_CONFIG), Meter.class.getName());
        p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        return p;
    }

    private static KafkaConsumer<byte[], byte[]> consumer(Options options) {
        return new KafkaConsumer<>(
                Map.of("bootstrap.servers", options.text("--bootstrap"), "isolation.level", "read_committed"),
                new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static Map<TopicPartition, Long> ends(Options options, String topic) {
        try (var consumer = consumer(options)) {
            return consumer.endOffsets(consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList());
        }
    }

    /** Whether all was committed: a commit comes after all that it covers is in the output topic. */
    private static boolean committed(Admin admin, String application, Map<TopicPartition, Long> ends) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> offsets =
                admin.listConsumerGroupOffsets(application).partitionsToOffsetAndMetadata().get();
        return ends.entrySet().stream().allMatch(end -> {
            OffsetAndMetadata offset = offsets.get(end.getKey());
            return end.getValue() == 0 || (offset != null && offset.offset() >= end.getValue());
        });
    }

    /** The last value that was committed for each window. */
    private static void readOutput(Options options, String output, Serde<Windowed<String>> keys, Tally tally) {
        Map<Windowed<String>, byte[]> last = new HashMap<>();
        try (var consumer = consumer(options)) {
            Map<TopicPartition, Long> ends = ends(options, output);
            consumer.assign(ends.keySet());
            consumer.seekToBeginning(ends.keySet());
            for (TopicPartition p : ends.keySet()) if (consumer.position(p) > 0) throw new IllegalStateException(p + " has lost its beginning");
            while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
                consumer.poll(Duration.ofMillis(200)).forEach(r -> last.put(keys.deserializer().deserialize(output, r.key()), r.value()));
            }
        }
        last.forEach((key, value) -> Window.fromBytes(value).tally(key.window().start(), key.key(), tally));
    }
}
