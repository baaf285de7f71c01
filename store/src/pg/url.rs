//! The connection string: libpq's parameters, of which tokio-postgres knows only some.

use super::tls::{SslMode, Tls};
use crate::{Result, StoreError};
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Parameters of libpq that change nothing for us: UTF-8 is always spoken, GSSAPI and compression never.
const IGNORED: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gssdelegation",
    "krbsrvname",
    "gsslib",
    "sslcompression",
    "sslsni",
    "ssl_min_protocol_version",
];
/// Parameters that tokio-postgres takes.
const PASSED: &[&str] = &[
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "keepalives_count",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that vanished is noticed in about this time.
const VANISHED: Duration = Duration::from_secs(30);

/// Where to connect, and how.
#[derive(Clone)]
pub(super) struct Target {
    /// Without what concerns TLS.
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Host, port and database for messages: never the password.
    pub(super) name: String,
}

fn wrong(message: impl Into<String>) -> StoreError {
    StoreError::Setting { setting: "store".into(), message: message.into() }
}

impl Target {
    /// # Errors
    /// [`StoreError::Setting`] naming `store`.
    pub(super) fn parse(url: &str, application: &str) -> Result<Self> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut tls = Tls::default();
        let mut kept: Vec<String> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, raw) =
                pair.split_once('=').ok_or_else(|| wrong("a parameter of the URL lacks its `=`"))?;
            let value = || percent_decode(raw);
            match key {
                "sslmode" => tls.mode = value()?.parse()?,
                "sslrootcert" => tls.root = Some(PathBuf::from(value()?)),
                "sslcert" => tls.cert = Some(PathBuf::from(value()?)),
                "sslkey" => tls.key = Some(PathBuf::from(value()?)),
                // libpq's name of what tokio-postgres calls keepalives_retries.
                "keepalives_count" => kept.push(format!("keepalives_retries={raw}")),
                _ if PASSED.contains(&key) => kept.push(pair.to_owned()),
                _ if IGNORED.contains(&key) => {}
                _ => return Err(wrong(format!("the URL's parameter `{key}` is not supported"))),
            }
        }
        let mut config: Config =
            format!("{base}?{}", kept.join("&")).parse().map_err(|e: tokio_postgres::Error| {
                wrong(format!("the PostgreSQL URL cannot be read: {}", super::error::words(&e)))
            })?;
        let given = |key: &str| kept.iter().any(|p| p.split('=').next() == Some(key));
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("localhost");
        }
        if config.get_application_name().is_none() {
            config.application_name(application);
        }
        if !given("connect_timeout") {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if !given("keepalives_idle") {
            config.keepalives_idle(VANISHED / 2);
        }
        if !given("tcp_user_timeout") {
            config.tcp_user_timeout(VANISHED);
        }
        // libpq too passes over TLS on a socket of this machine.
        if config.get_hosts().iter().all(|h| matches!(h, Host::Unix(_))) && !config.get_hosts().is_empty() {
            tls.mode = SslMode::Disable;
        }
        tls.direct = kept.iter().any(|p| p == "sslnegotiation=direct");
        let name = name_of(&config);
        Ok(Self { config, tls, name })
    }
}

fn name_of(config: &Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|h| match h {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .chain(config.get_hostaddrs().iter().map(ToString::to_string))
        .collect();
    let ports: Vec<String> = config.get_ports().iter().map(ToString::to_string).collect();
    let port = if ports.is_empty() { "5432".to_owned() } else { ports.join(",") };
    format!("PostgreSQL at {}:{port}/{}", hosts.join(","), config.get_dbname().unwrap_or(""))
}

fn percent_decode(raw: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8), // below 256
            _ => return Err(wrong("a `%` in the URL is not followed by two hexadecimal digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong("a parameter of the URL is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_ours_and_the_rest_is_passed_on() {
        let t = Target::parse(
            "postgres://u:p%40ss@db.example:6432/fleet?sslmode=verify-full&sslrootcert=%2Fetc%2Fca%20x.pem\
             &application_name=x&gssencmode=disable&connect_timeout=3",
            "fleetscore",
        )
        .unwrap();
        assert_eq!(t.tls.mode, SslMode::VerifyFull);
        assert_eq!(t.tls.root.as_deref(), Some(std::path::Path::new("/etc/ca x.pem")));
        assert_eq!(t.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(t.config.get_application_name(), Some("x"));
        assert_eq!(t.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
        assert_eq!(t.name, "PostgreSQL at db.example:6432/fleet");
    }

    #[test]
    fn a_socket_needs_no_tls() {
        for url in [
            "postgres://u@%2Ftmp%2Fpg/db?sslmode=require",
            "postgres:///db?host=/tmp/pg&user=u&sslmode=require",
        ] {
            assert_eq!(Target::parse(url, "a").unwrap().tls.mode, SslMode::Disable, "{url}");
        }
        assert_eq!(Target::parse("postgres://u@h/db", "a").unwrap().tls.mode, SslMode::Prefer);
    }

    #[test]
    fn mistakes_name_the_setting_and_not_the_password() {
        for url in [
            "postgres://u:secret@h/db?sslmode=perhaps",
            "postgres://u:secret@h/db?sslcrl=x",
            "postgres://u:secret@h/db?connect_timeout=soon",
            "postgres://u:secret@h/db?sslrootcert=%zz",
            "postgres://u:secret@h:port/db",
        ] {
            let e = Target::parse(url, "a").err().unwrap();
            assert!(matches!(&e, StoreError::Setting { setting, .. } if setting == "store"), "{url}: {e:?}");
            assert!(!format!("{e} {e:?}").contains("secret"), "{e:?}");
        }
    }
}
