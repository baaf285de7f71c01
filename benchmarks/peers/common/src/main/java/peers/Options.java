package peers;

import java.util.HashMap;
import java.util.Map;

/** Options of a command line: {@code --name value}. */
public final class Options {
    private final Map<String, String> values = new HashMap<>();

    /** Takes them all; each must have a default in {@code defaults} ({@code --name=value}), which is null where it must be given. */
    public Options(String[] args, String... defaults) {
        for (String d : defaults) {
            String[] pair = d.split("=", 2);
            values.put(pair[0], pair.length == 2 ? pair[1] : null);
        }
        for (int i = 0; i < args.length; i += 2) {
            if (!values.containsKey(args[i])) throw new IllegalArgumentException("unknown option " + args[i]);
            if (i + 1 == args.length) throw new IllegalArgumentException(args[i] + " has no value");
            values.put(args[i], args[i + 1]);
        }
    }

    public String text(String name) {
        String value = values.get(name);
        if (value == null) throw new IllegalArgumentException(name + " is missing");
        return value;
    }

    public long number(String name) {
        return Long.parseLong(text(name));
    }

    /** One of these words. */
    public String oneOf(String name, String... words) {
        String value = text(name);
        for (String word : words) if (word.equals(value)) return value;
        throw new IllegalArgumentException(name + " is one of " + String.join(", ", words));
    }
}
