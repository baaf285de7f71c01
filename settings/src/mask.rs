//! Secrets are never shown: not by `config`, not in a log, not in an error.

/// What stands where a secret was.
pub const MASK: &str = "***";

/// Names (parts of names) whose values are secret, in URLs, connection strings and Kafka properties.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "secret",
    "token",
    "jaas",
    "key.pem",
    "oauthbearer.config",
    "oauthbearer.assertion",
    "sharedaccesskey",
    "sharedaccesssignature",
    "accountkey",
    "access_key",
    "account_key",
];

fn is_secret_name(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    // Names that only contain a secret one: who, where, not what.
    if name == "sharedaccesskeyname" || name.ends_with(".location") || name.ends_with(".url") {
        return false;
    }
    name == "sig" || name == "pwd" || SECRET_NAMES.iter().any(|s| name.contains(s))
}

/// The value of a Kafka property as it may be shown.
pub fn property(name: &str, value: &str) -> String {
    if is_secret_name(name) { MASK.to_owned() } else { text(value) }
}

/// A URL, a connection string or any text that may hold one, with its passwords, keys and signatures masked.
pub fn text(text: &str) -> String {
    pairs(&userinfo(text))
}

/// `scheme://user:secret@…`: everything between the first colon and the last `@` before a query, or the last `@` of
/// all where a careless password holds a `?`; rather too much than too little.
fn userinfo(text: &str) -> String {
    let Some(start) = text.find("://").map(|i| i + 3) else { return text.to_owned() };
    let rest = &text[start..];
    let query = rest.find('?').unwrap_or(rest.len());
    let Some(at) = rest[..query].rfind('@').or_else(|| rest.rfind('@')) else { return text.to_owned() };
    let Some(colon) = rest[..at].find(':') else { return text.to_owned() };
    format!("{}{}:{MASK}{}", &text[..start], &rest[..colon], &rest[at..])
}

/// `name=secret` in queries, connection strings and libpq's own form.
fn pairs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Of a URL's query, in which a semicolon separates nothing; rather too much than too little again.
    let query = text.find("://").and_then(|scheme| Some(scheme + text[scheme..].find('?')?));
    while let Some(eq) = rest.find('=') {
        // libpq allows blanks on both sides of the sign.
        let name = rest[..eq].trim_end();
        let ends_a_name = |c: char| c.is_whitespace() || ";&?,".contains(c);
        let name_at =
            name.char_indices().rfind(|(_, c)| ends_a_name(*c)).map_or(0, |(i, c)| i + c.len_utf8());
        let secret = is_secret_name(&name[name_at..]);
        let is_query = query.is_some_and(|q| q < text.len() - rest.len() + eq);
        out.push_str(&rest[..=eq]);
        rest = &rest[eq + 1..];
        if secret {
            let value = rest.trim_start();
            out.push_str(&rest[..rest.len() - value.len()]);
            out.push_str(MASK);
            rest = &value[secret_length(value, is_query)..];
        }
    }
    out.push_str(rest);
    out
}

/// How much of a text its leading secret takes: up to the closing quote, or to what separates pairs; a backslash takes
/// the meaning from what follows.
fn secret_length(text: &str, is_query: bool) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return i + 1,
            '&' if !quoted => return i,
            ';' if !quoted && !is_query => return i,
            c if !quoted && c.is_whitespace() => return i,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_urls_and_connection_strings() {
        for (given, shown) in [
            ("localhost:9092", "localhost:9092"),
            ("sqlite:/tmp/a.db", "sqlite:/tmp/a.db"),
            ("postgres://me@host:5432/db", "postgres://me@host:5432/db"),
            (
                "postgres://me:s3cret@host:5432/db?sslmode=require",
                "postgres://me:***@host:5432/db?sslmode=require",
            ),
            ("postgres://me:s3@cr/et@host/db", "postgres://me:***@host/db"),
            ("postgres://me:s3?cr@host/db", "postgres://me:***@host/db"),
            (
                "postgres://host/db?user=me&password=s3cret&sslmode=require",
                "postgres://host/db?user=me&password=***&sslmode=require",
            ),
            ("host=h user=me password=s3cret dbname=d", "host=h user=me password=*** dbname=d"),
            ("host=h password='s3 cret' dbname=d", "host=h password=*** dbname=d"),
            ("host=h password = TOPSECRET user=me", "host=h password = *** user=me"),
            ("host=h password =\t'TOP SECRET' user=me", "host=h password =\t*** user=me"),
            (r"host=h password='TOP\'SEC RET' user=me", "host=h password=*** user=me"),
            (r"host=h password=TOP\ SECRET user=me", "host=h password=*** user=me"),
            ("host=h\npassword=TOPSECRET\nuser=me", "host=h\npassword=***\nuser=me"),
            (
                "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=abc+/=;EntityPath=hub",
                "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=root;SharedAccessKey=***;EntityPath=hub",
            ),
            ("az://container/prefix", "az://container/prefix"),
            (
                "https://a.blob.core.windows.net/c?sv=1&sig=abc%3D&se=2",
                "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2",
            ),
            (
                "https://a.blob.core.windows.net/c?sv=1&sig=a;b=c&se=2",
                "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2",
            ),
            ("AccountName=a;AccountKey=abc==;X=1", "AccountName=a;AccountKey=***;X=1"),
        ] {
            assert_eq!(text(given), shown);
        }
    }

    #[test]
    fn what_is_shown_of_kafka_properties() {
        for (name, secret) in [
            ("sasl.password", true),
            ("ssl.key.password", true),
            ("ssl.keystore.password", true),
            ("ssl.key.pem", true),
            ("sasl.oauthbearer.client.secret", true),
            ("sasl.oauthbearer.config", true),
            ("sasl.username", false),
            ("ssl.key.location", false),
            ("security.protocol", false),
            ("fetch.max.bytes", false),
        ] {
            assert_eq!(property(name, "v4lue") == MASK, secret, "{name}");
        }
    }
}
