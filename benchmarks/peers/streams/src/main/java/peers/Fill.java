package peers;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Fills a new topic with readings by a seed, and says what their windows come to by plain arithmetic. Values are multiples of 1/8;
 * times go up over all partitions alike, each up to five seconds too early; a message's key is its device, or, where a message holds
 * several readings, nothing, with the partition that the device's number gives.
 */
public final class Fill {
    private static final long START = Instant.parse("2026-01-01T00:00:00Z").toEpochMilli();

    public static void main(String[] args) throws Exception {
        Options options = new Options(args, "--bootstrap", "--topic", "--readings=1000000", "--series=10000", "--sensors=4",
                "--partitions=8", "--minutes=20", "--packed=1", "--seed=1");
        String topic = options.text("--topic");
        int readings = (int) options.number("--readings");
        int series = (int) options.number("--series");
        int sensors = (int) options.number("--sensors");
        int partitions = (int) options.number("--partitions");
        int minutes = (int) options.number("--minutes");
        int packed = (int) options.number("--packed");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", options.text("--bootstrap")))) {
            admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        }

        byte[][] devices = new byte[series][];
        for (int s = 0; s < series; s++) devices[s] = String.format("d-%05d", s / sensors).getBytes(StandardCharsets.UTF_8);
        int[] counts = new int[minutes * series];
        double[][] sums = new double[3][minutes * series]; // sum, least, most

        SplittableRandom random = new SplittableRandom(options.number("--seed"));
        StringBuilder[] open = new StringBuilder[partitions];
        int[] held = new int[partitions];
        for (int p = 0; p < partitions; p++) open[p] = new StringBuilder();
        AtomicReference<Exception> failure = new AtomicReference<>();
        Map<String, Object> properties =
                Map.of("bootstrap.servers", options.text("--bootstrap"), "linger.ms", 50, "batch.size", 256 << 10, "acks", "1");
        try (var producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
            long second = -1;
            String prefix = "";
            for (int i = 0; i < readings; i++) {
                int s = random.nextInt(series);
                long at = Math.max(0, (long) i * minutes * 60_000 / readings - random.nextInt(5_000));
                double value = 20 + random.nextInt(800) / 8.0;
                int window = (int) (at / 60_000) * series + s;
                boolean first = counts[window]++ == 0;
                sums[0][window] += value;
                sums[1][window] = first ? value : Math.min(sums[1][window], value);
                sums[2][window] = first ? value : Math.max(sums[2][window], value);

                if (at / 1000 != second) {
                    second = at / 1000;
                    prefix = Instant.ofEpochMilli(START + at).truncatedTo(ChronoUnit.SECONDS).toString().substring(0, 19);
                }
                int p = s / sensors % partitions;
                StringBuilder text = open[p];
                if (packed > 1) text.append(held[p] == 0 ? '[' : ',');
                text.append("{\"device\":\"").append(new String(devices[s], StandardCharsets.UTF_8));
                text.append("\",\"sensor\":\"").append(sensor(s % sensors));
                text.append("\",\"ts\":\"").append(prefix).append('.').append(String.valueOf(1000 + at % 1000), 1, 4);
                text.append("Z\",\"value\":").append(value).append('}');
                if (++held[p] == packed) {
                    held[p] = 0;
                    if (packed > 1) send(producer, new ProducerRecord<>(topic, p, null, take(text.append(']'))), failure);
                    else send(producer, new ProducerRecord<>(topic, devices[s], take(text)), failure);
                }
            }
            for (int p = 0; p < partitions; p++) {
                if (held[p] > 0) send(producer, new ProducerRecord<>(topic, p, null, take(open[p].append(']'))), failure);
            }
        }
        if (failure.get() != null) throw failure.get();

        Tally tally = new Tally();
        for (int w = 0; w < counts.length; w++) {
            if (counts[w] == 0) continue;
            int s = w % series;
            byte[] sensor = sensor(s % sensors).getBytes(StandardCharsets.UTF_8);
            tally.add(START + w / series * 60_000L, devices[s], sensor, counts[w], sums[0][w], sums[1][w], sums[2][w]);
        }
        System.out.printf("{\"what\":\"expected\",\"readings\":%d,%s}%n", readings, tally.fields());
    }

    private static String sensor(int number) {
        return switch (number) {
            case 0 -> "temp";
            case 1 -> "hum";
            case 2 -> "volt";
            case 3 -> "amp";
            default -> "s" + number;
        };
    }

    private static byte[] take(StringBuilder text) {
        byte[] bytes = text.toString().getBytes(StandardCharsets.UTF_8);
        text.setLength(0);
        return bytes;
    }

    private static void send(KafkaProducer<byte[], byte[]> producer, ProducerRecord<byte[], byte[]> record, AtomicReference<Exception> failure) {
        producer.send(record, (m, e) -> {
            if (e != null) failure.compareAndSet(null, e);
        });
    }
}
