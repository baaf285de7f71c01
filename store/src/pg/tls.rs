//! libpq's `sslmode`s on rustls with ring.
//!
//! | mode | without TLS at the server | the server's certificate |
//! | --- | --- | --- |
//! | `disable` | plain, always | – |
//! | `allow` | plain first, TLS if refused | not looked at |
//! | `prefer` (default) | TLS first, plain if that fails | not looked at |
//! | `require` | refused | not looked at; with `sslrootcert` as `verify-ca` |
//! | `verify-ca` | refused | signed by a root |
//! | `verify-full` | refused | signed by a root, and for this host name (subject alternative names) |
//!
//! Roots are those of `sslrootcert` (PEM), or the system's where it is absent or `system`.

use super::url::Target;
use crate::{Result, StoreError};
use deadpool_postgres::Connect;
use futures::future::BoxFuture;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much TLS is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum SslMode {
    Disable,
    Allow,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = StoreError;
    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => {
                return Err(wrong(format!(
                    "sslmode `{s}` is not one of disable, allow, prefer, require, verify-ca, verify-full"
                )));
            }
        })
    }
}

/// What a URL says of TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    pub(super) root: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    /// TLS from the first byte (PostgreSQL 17), which asks for a protocol name.
    pub(super) direct: bool,
}

fn wrong(message: String) -> StoreError {
    StoreError::Setting { setting: "store".into(), message }
}

/// Opens connections, for the pool and beside it.
#[derive(Clone)]
pub(super) struct Connector {
    mode: SslMode,
    tls: Option<MakeRustlsConnect>,
}

/// What every session is set to, so that text forms and times do not depend on the server's configuration. The
/// timeouts are far above what a statement of ours takes, and end what a vanished or paused client left behind: between
/// two statements of a transaction we never wait for anything but our own processor (a commit of predictions, which waits
/// for them, gives itself more).
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; \
    SET extra_float_digits = 1; SET bytea_output = 'hex'; SET client_min_messages = 'warning'; SET jit = off; \
    SET default_transaction_isolation = 'read committed'; SET statement_timeout = '10min'; \
    SET lock_timeout = '60s'; SET idle_in_transaction_session_timeout = '20s'";

impl Connector {
    /// Reads the certificates.
    ///
    /// # Errors
    /// [`StoreError::Setting`] naming `store` and the file.
    pub(super) fn new(tls: &Tls) -> Result<Self> {
        if tls.mode == SslMode::Disable {
            return Ok(Self { mode: tls.mode, tls: None });
        }
        let provider = Arc::new(ring::default_provider());
        let check = match (tls.mode, &tls.root) {
            (SslMode::VerifyFull, root) => Check::Roots { roots: roots(root.as_deref())?, name: true },
            (SslMode::VerifyCa, root) => Check::Roots { roots: roots(root.as_deref())?, name: false },
            (SslMode::Require, Some(root)) => Check::Roots { roots: roots(Some(root))?, name: false },
            _ => Check::Nothing,
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(StoreError::internal)?
            .dangerous() // the verifier below is what sslmode asks for
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, check }));
        let mut config = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(certificates(cert)?, private_key(key)?)
                .map_err(|e| wrong(format!("sslcert and sslkey cannot be used: {e}")))?,
            (None, None) => builder.with_no_client_auth(),
            _ => return Err(wrong("sslcert and sslkey belong together".into())),
        };
        if tls.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { mode: tls.mode, tls: Some(MakeRustlsConnect::new(config)) })
    }

    /// A connection beside the pool.
    pub(super) async fn connect_once(&self, target: &Target) -> Result<Client, tokio_postgres::Error> {
        Ok(self.open(&target.config).await?.0)
    }

    async fn open(&self, config: &Config) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        use tokio_postgres::config::SslMode as Wire;
        let with = |mode: Wire| {
            let mut config = config.clone();
            config.ssl_mode(mode);
            config
        };
        let (plain, required) = (with(Wire::Disable), with(Wire::Require));
        let Some(tls) = &self.tls else { return open(&plain, NoTls).await };
        match self.mode {
            SslMode::Disable => open(&plain, NoTls).await,
            SslMode::Allow => match open(&plain, NoTls).await {
                Err(e) if refused(&e) => open(&required, tls.clone()).await.map_err(|_| e),
                other => other,
            },
            SslMode::Prefer => match open(&required, tls.clone()).await {
                // Whatever is wrong with TLS, or with TLS alone (`hostnossl` in pg_hba.conf), plain may work.
                Err(e) if refused(&e) || e.code().is_none() => open(&plain, NoTls).await,
                other => other,
            },
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => open(&required, tls.clone()).await,
        }
    }
}

/// The server refused this kind of connection for this user.
fn refused(e: &tokio_postgres::Error) -> bool {
    e.code().is_some_and(|c| c.code() == "28000")
}

async fn open<T>(config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(error = %super::error::words(&e), "a connection to PostgreSQL ended");
        }
    });
    client.batch_execute(SESSION).await?;
    Ok((client, task))
}

impl Connect for Connector {
    fn connect(
        &self,
        config: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let config = config.clone();
        Box::pin(async move { self.open(&config).await })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |what: String| wrong(format!("the certificates in `{}` {what}", path.display()));
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| bad(format!("cannot be read: {e}")))?.collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(bad("are none: the file holds no PEM certificate".into())),
        Err(e) => Err(bad(format!("cannot be read: {e}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|e| wrong(format!("the key in `{}` cannot be read: {e}", path.display())))
}

fn roots(path: Option<&Path>) -> Result<Roots> {
    let mut store = RootCertStore::empty();
    let mut exact = Vec::new();
    match path {
        Some(path) if path != Path::new("system") => {
            for cert in certificates(path)? {
                store.add(cert.clone()).map_err(|e| {
                    wrong(format!("a certificate in sslrootcert `{}` cannot be used: {e}", path.display()))
                })?;
                exact.push(cert);
            }
        }
        _ => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let why = found.errors.first().map(ToString::to_string).unwrap_or_default();
                return Err(wrong(format!(
                    "the system has no root certificates; give `sslrootcert` ({why})"
                )));
            }
        }
    }
    Ok(Roots { store, exact })
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    /// A server may show a certificate that is its own root; webpki refuses an authority as a server's certificate.
    exact: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
enum Check {
    Nothing,
    Roots { roots: Roots, name: bool },
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    check: Check,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Check::Roots { roots, name } = &self.check {
            let cert = ParsedCertificate::try_from(end_entity)?;
            if !roots.exact.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
                let algorithms = self.provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &cert,
                    &roots.store,
                    intermediates,
                    now,
                    algorithms,
                )?;
            }
            if *name {
                verify_server_name(&cert, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
