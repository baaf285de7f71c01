package peers;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** A device's window: count, sum, least and greatest of each of its sensors. */
final class Window {
    private static final class Sensor {
        byte[] name;
        long n;
        double total;
        double least = Double.POSITIVE_INFINITY;
        double most = Double.NEGATIVE_INFINITY;
    }

    private final List<Sensor> sensors = new ArrayList<>(4);

    Window add(Reading reading) {
        Sensor sensor = sensor(reading.sensor());
        sensor.n += 1;
        sensor.total += reading.value();
        sensor.least = Math.min(sensor.least, reading.value());
        sensor.most = Math.max(sensor.most, reading.value());
        return this;
    }

    private Sensor sensor(String name) {
        byte[] bytes = name.getBytes(StandardCharsets.UTF_8);
        for (Sensor sensor : sensors) if (Arrays.equals(sensor.name, bytes)) return sensor;
        Sensor added = new Sensor();
        added.name = bytes;
        sensors.add(added);
        return added;
    }

    void tally(long paneMs, String device, Tally tally) {
        byte[] bytes = device.getBytes(StandardCharsets.UTF_8);
        for (Sensor s : sensors) tally.add(paneMs, bytes, s.name, s.n, s.total, s.least, s.most);
    }

    byte[] toBytes() {
        int length = 0;
        for (Sensor s : sensors) length += 1 + s.name.length + 5 * 8;
        ByteBuffer out = ByteBuffer.allocate(length);
        for (Sensor s : sensors) {
            out.put((byte) s.name.length).put(s.name).putLong(s.n).putDouble(s.total).putDouble(s.least).putDouble(s.most);
            out.putDouble(s.total / s.n); // the average, for who reads the topic
        }
        return out.array();
    }

    static Window fromBytes(byte[] bytes) {
        Window window = new Window();
        ByteBuffer in = ByteBuffer.wrap(bytes);
        while (in.hasRemaining()) {
            Sensor s = new Sensor();
            s.name = new byte[in.get()];
            in.get(s.name);
            s.n = in.getLong();
            s.total = in.getDouble();
            s.least = in.getDouble();
            s.most = in.getDouble();
            Tally.checkAverage(in.getDouble(), s.total, s.n);
            window.sensors.add(s);
        }
        return window;
    }
}
