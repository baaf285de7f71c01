package peers;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * Times and CPU of this process since it started. As the consumer's interceptor it is asked once for each batch, so it notes when the
 * first record came and counts messages at no cost per record, and the same in both peers.
 */
public final class Meter implements ConsumerInterceptor<Object, Object> {
    private static final OperatingSystemMXBean SYSTEM = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private static final AtomicLong MESSAGES = new AtomicLong();
    private static double startup;
    private static double startupCpu;
    private static double wall;
    private static double cpu;
    private static long peak;

    private static double seconds() {
        return (System.currentTimeMillis() - ManagementFactory.getRuntimeMXBean().getStartTime()) / 1e3;
    }

    /** CPU of the whole process: compiler and garbage collector with it. */
    private static double cpuSeconds() {
        return SYSTEM.getProcessCpuTime() / 1e9;
    }

    /** Messages read so far. */
    public static long messages() {
        return MESSAGES.get();
    }

    /** All results are where they belong: what comes after this is not measured. */
    public static void done() throws IOException {
        wall = seconds();
        cpu = cpuSeconds();
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) peak = Long.parseLong(line.replaceAll("\\D", ""));
        }
    }

    /** The one line of the output. */
    public static void print(String what, long readings, Tally tally) {
        System.out.printf(
                Locale.ROOT,
                "{\"what\":\"%s\",\"messages\":%d,\"readings\":%d,%s,"
                        + "\"wall_s\":%.3f,\"startup_s\":%.3f,\"cpu_s\":%.3f,\"cpu_startup_s\":%.3f,\"peak_rss_mb\":%.1f}%n",
                what, messages(), readings, tally.fields(), wall, startup, cpu, startupCpu, peak * 1024 / 1e6);
    }

    @Override
    public ConsumerRecords<Object, Object> onConsume(ConsumerRecords<Object, Object> records) {
        if (MESSAGES.getAndAdd(records.count()) == 0 && records.count() > 0) {
            startup = seconds();
            startupCpu = cpuSeconds();
        }
        return records;
    }

    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {}

    @Override
    public void close() {}

    @Override
    public void configure(Map<String, ?> configuration) {}
}
