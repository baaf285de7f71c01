package peers;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;

/**
 * What a peer's windows come to: how many there are, their counts and sums in total, and a hash over all that is in them which does
 * not depend on their order. Sums are exact where every value is a multiple of 1/8.
 */
public final class Tally {
    private long windows;
    private long count;
    private double sum;
    private long hash;

    public void add(long paneMs, String device, String sensor, long n, double total, double min, double max) {
        add(paneMs, device.getBytes(StandardCharsets.UTF_8), sensor.getBytes(StandardCharsets.UTF_8), n, total, min, max);
    }

    public void add(long paneMs, byte[] device, byte[] sensor, long n, double total, double min, double max) {
        ByteBuffer row = ByteBuffer.allocate(device.length + sensor.length + 2 + 5 * 8).order(ByteOrder.LITTLE_ENDIAN);
        row.put(device).put((byte) 0).put(sensor).put((byte) 0);
        row.putLong(paneMs).putLong(n).putDouble(total).putDouble(min).putDouble(max);
        long h = 0xcbf29ce484222325L; // FNV-1a
        for (byte b : row.array()) h = (h ^ (b & 0xff)) * 0x100000001b3L;
        synchronized (this) {
            windows += 1;
            count += n;
            sum += total;
            hash += h;
        }
    }

    /** An average that was asked for must be the sum by the count. */
    public static void checkAverage(double average, double total, long n) {
        if (Math.abs(average - total / n) > 1e-9) throw new IllegalStateException("an average of " + average + " for " + total + "/" + n);
    }

    public synchronized long count() {
        return count;
    }

    public synchronized String fields() {
        return String.format("\"windows\":%d,\"checksum_count\":%d,\"sum\":%s,\"hash\":\"%016x\"", windows, count, sum, hash);
    }
}
