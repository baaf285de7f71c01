//! Blob storage: one root, a local folder or a container of Azure, S3 or Google Cloud, with the errors classified.

mod http;

use bytes::Bytes;
use fleetscore_schemas::codes::{Classify, Domain};
use fleetscore_store::{Store, StoreError};
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions, RetryConfig,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;
use uuid::Uuid;

/// The object at a root that says which store it belongs to.
pub const IDENTITY: &str = "_fleetscore.json";

/// What blob storage returns.
pub type Result<T, E = BlobError> = std::result::Result<T, E>;

/// Why blob storage could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The setting is wrong: the URL, the credentials, a container that does not exist, another store's root.
    #[error("setting `blobs`: {message}")]
    Setting {
        /// What is wrong, and what to do.
        message: String,
    },
    /// The service cannot be reached or used just now: the same call may succeed later.
    #[error("blob storage is unavailable: {message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// There is no such object.
    #[error("there is no object `{name}` in blob storage")]
    NotFound {
        /// Its name below the root.
        name: String,
    },
    /// A create-only put met an object with another content.
    #[error("the object `{name}` exists already with another content")]
    Exists {
        /// Its name below the root.
        name: String,
    },
}

impl Classify for BlobError {
    fn domain(&self) -> Domain {
        match self {
            Self::Setting { .. } => Domain::User,
            Self::Unavailable { .. } => Domain::External,
            Self::NotFound { .. } | Self::Exists { .. } => Domain::Internal,
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

fn setting(message: impl Into<String>) -> BlobError {
    BlobError::Setting { message: message.into() }
}

/// The root under which everything is kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    /// The storage itself.
    pub store: Arc<dyn ObjectStore>,
    /// What stands before every name; empty for a local folder.
    pub prefix: Path,
    root: Option<PathBuf>,
    url: Arc<str>,
}

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name below the root.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    store_id: String,
    made_by: String,
}

impl Blobs {
    /// Opens a root by URL; nothing is contacted yet, but a local folder is made.
    ///
    /// | form | where |
    /// | --- | --- |
    /// | `file:///abs`, `file://rel`, a bare path | a local folder |
    /// | `az://container/prefix` (`abfs://`, `https://….blob.core.windows.net/…`) | Azure Blob Storage, Azurite |
    /// | `s3://bucket/prefix` | S3 and what speaks like it |
    /// | `gs://bucket/prefix` | Google Cloud Storage |
    ///
    /// Credentials and endpoints come from the environment by the names that the services' own tools use
    /// (`AZURE_STORAGE_…` with `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_USE_EMULATOR` and
    /// `AZURITE_BLOB_STORAGE_URL`; `AWS_…`; `GOOGLE_…`); `options` have the same names, in any case, and win.
    ///
    /// # Errors
    /// [`BlobError::Setting`] for a URL or option that cannot be used.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let shown = without_secrets(url);
        if let Some(path) = local_path(url)? {
            return Self::open_local(&path);
        }
        let parsed = Url::parse(url).map_err(|e| setting(format!("`{shown}` is no URL: {e}")))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|_| unknown_form(&shown))?;
        let refused = |e: object_store::Error| setting(format!("`{shown}`: {e}"));
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::MicrosoftAzure => Arc::new(azure(url, options).build().map_err(refused)?),
            ObjectStoreScheme::AmazonS3 => {
                let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(retry());
                builder = builder.with_http_connector(http::Connector::default());
                for (key, value) in options {
                    if let Ok(key) = key.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build().map_err(refused)?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(retry());
                builder = builder.with_http_connector(http::Connector::default());
                for (key, value) in options {
                    if let Ok(key) = key.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Arc::new(builder.build().map_err(refused)?)
            }
            _ => return Err(unknown_form(&shown)),
        };
        Ok(Self { store, prefix, root: None, url: shown.into() })
    }

    fn open_local(path: &std::path::Path) -> Result<Self> {
        let refused = |e: &dyn std::fmt::Display| {
            setting(format!("the folder `{}` cannot be used: {e}", path.display()))
        };
        std::fs::create_dir_all(path).map_err(|e| refused(&e))?;
        let root = path.canonicalize().map_err(|e| refused(&e))?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(|e| refused(&e))?;
        let url = format!("file://{}", root.display()).into();
        Ok(Self { store: Arc::new(store), prefix: Path::default(), root: Some(root), url })
    }

    /// A root on any storage, for tests and simulation.
    pub fn on(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let url = store.to_string().into();
        Self { store, prefix, root: None, url }
    }

    /// The root as a URL, without secrets.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder, where the root is a local one: there, conditional puts need a lock file and a rename.
    pub fn local_root(&self) -> Option<&std::path::Path> {
        self.root.as_deref()
    }

    /// The full path of a name below the root; `/` separates folders.
    pub fn path(&self, name: &str) -> Path {
        let mut path = self.prefix.clone();
        for part in name.split('/').filter(|p| !p.is_empty()) {
            path = path.join(part);
        }
        path
    }

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], and whatever the service says.
    pub async fn get(&self, name: &str) -> Result<Bytes> {
        let result = async { self.store.get(&self.path(name)).await?.bytes().await };
        result.await.map_err(|e| self.error(name, e))
    }

    /// The bytes of an object, `None` if it does not exist.
    pub async fn get_opt(&self, name: &str) -> Result<Option<Bytes>> {
        match self.get(name).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(BlobError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The bytes of an immutable object: mapped into memory where the root is a local folder, else fetched whole.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], and whatever the service says.
    pub async fn map(&self, name: &str) -> Result<Bytes> {
        let Some(root) = &self.root else { return self.get(name).await };
        let local = LocalFileSystem::new_with_prefix(root).map_err(|e| self.error(name, e))?;
        let path = local.path_to_filesystem(&self.path(name)).map_err(|e| self.error(name, e))?;
        let mapped = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(path)?;
            // SAFETY: what is mapped must not change while it is. Objects that are mapped are immutable: they appear by
            // a rename when they are whole, nothing writes to them again, and whoever removes a set unlinks its files,
            // which leaves what is mapped as it is. (Somebody else who cuts such a file short makes the process end by
            // SIGBUS, as with any mapped file.)
            unsafe { memmap2::Mmap::map(&file) }
        });
        let mapped = mapped.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        match mapped {
            Ok(mapped) => Ok(Bytes::from_owner(mapped)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(BlobError::NotFound { name: name.to_owned() })
            }
            Err(e) => {
                let source = Box::new(e);
                Err(self.error(name, object_store::Error::Generic { store: "LocalFileSystem", source }))
            }
        }
    }

    /// Makes an object that must not exist yet; `false` where one exists, which stays as it is.
    pub async fn put_create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&self.path(name), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(e) => Err(self.error(name, e)),
        }
    }

    /// Makes an immutable object; it may exist already with the same content (an earlier try whose answer was lost).
    ///
    /// # Errors
    /// [`BlobError::Exists`] where another content is there.
    pub async fn put_immutable(&self, name: &str, bytes: Bytes) -> Result<()> {
        if self.put_create(name, bytes.clone()).await? || self.get(name).await? == bytes {
            return Ok(());
        }
        Err(BlobError::Exists { name: name.to_owned() })
    }

    /// All objects below a folder, by name; empty where there is no such folder.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let path = self.path(folder);
        let listed = self.store.list(Some(&path)).map_ok(|meta| {
            let below = meta.location.prefix_match(&self.prefix);
            let parts = below.map(|parts| parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>());
            Listed { name: parts.unwrap_or_default().join("/"), size: meta.size }
        });
        let mut all: Vec<Listed> = listed.try_collect().await.map_err(|e| self.error(folder, e))?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The objects of this root itself, not those of folders in it.
    pub(crate) async fn list_level(&self) -> Result<Vec<Listed>> {
        let listed =
            self.store.list_with_delimiter(Some(&self.prefix)).await.map_err(|e| self.error("", e))?;
        let name = |meta: &ObjectMeta| meta.location.filename().unwrap_or_default().to_owned();
        Ok(listed.objects.iter().map(|meta| Listed { name: name(meta), size: meta.size }).collect())
    }

    /// Makes sure that this root belongs to the store with this id: writes the id where none is yet.
    ///
    /// # Errors
    /// [`BlobError::Setting`] where another store's id is there.
    pub async fn ensure_identity(&self, store_id: Uuid) -> Result<()> {
        self.check_identity(store_id, false).await
    }

    /// As [`Blobs::ensure_identity`], where the store's own registry tells whether a root was in use before: then
    /// a root without an id is another one (a second machine's local folder, say) and is refused.
    ///
    /// # Errors
    /// [`BindError::Blob`] with [`BlobError::Setting`] where this is not the store's root.
    pub async fn bind(&self, store: &dyn Store) -> Result<(), BindError> {
        let used_before = !store.model_sets().await?.is_empty();
        Ok(self.check_identity(store.store_id().await?, used_before).await?)
    }

    async fn check_identity(&self, store_id: Uuid, used_before: bool) -> Result<()> {
        let found = match self.get_opt(IDENTITY).await? {
            Some(found) => found,
            None if used_before => {
                return Err(setting(format!(
                    "`{}` is empty, but the store's model sets are in another place: give the `blobs` that the store \
                     was used with (a local folder must be the same one on every machine)",
                    self.url
                )));
            }
            None => {
                let identity = Identity { store_id: store_id.to_string(), made_by: "fleetscore".into() };
                let bytes = serde_json::to_vec(&identity).map_err(|e| setting(e.to_string()))?;
                if self.put_create(IDENTITY, bytes.into()).await? {
                    return Ok(());
                }
                self.get(IDENTITY).await? // somebody was faster
            }
        };
        let identity: Identity = serde_json::from_slice(&found).map_err(|e| {
            setting(format!("`{}/{IDENTITY}` was not made by fleetscore ({e}): use another prefix", self.url))
        })?;
        if identity.store_id == store_id.to_string() {
            return Ok(());
        }
        Err(setting(format!(
            "`{}` belongs to the store {}, and the configured store is {store_id}: use another prefix, or the store \
             it belongs to",
            self.url, identity.store_id
        )))
    }

    /// Says of an error of the storage whose fault it is.
    pub fn error(&self, name: &str, error: object_store::Error) -> BlobError {
        use object_store::Error as E;
        let text = error.to_string();
        let missing_root = ["ContainerNotFound", "NoSuchBucket", "The specified bucket does not exist"];
        match &error {
            E::NotFound { .. } if missing_root.iter().any(|m| text.contains(m)) => {
                setting(format!("the container or bucket of `{}` does not exist: make it first", self.url))
            }
            E::NotFound { .. } => BlobError::NotFound { name: name.to_owned() },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                setting(format!("`{}` refuses the credentials: {text}", self.url))
            }
            E::AlreadyExists { .. } => BlobError::Exists { name: name.to_owned() },
            E::UnknownConfigurationKey { .. } | E::InvalidPath { .. } | E::NotSupported { .. } => {
                setting(format!("`{}`: {text}", self.url))
            }
            _ if is_refused_request(&text) || is_local_refusal(&error) => {
                setting(format!("`{}`: {text}", self.url))
            }
            _ => BlobError::Unavailable { message: format!("`{}`, object `{name}`: {text}", self.url) },
        }
    }
}

/// Why [`Blobs::bind`] failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Blob storage failed, or is not this store's.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classify for BindError {
    fn domain(&self) -> Domain {
        match self {
            Self::Blob(e) => e.domain(),
            Self::Store(e) => e.domain(),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Blob(e) => e.is_transient(),
            Self::Store(e) => e.is_transient(),
        }
    }
}

/// A request that the service understood and will refuse again: any 4xx but a timeout, a conflict or throttling.
fn is_refused_request(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("non-2xx status code: ") else { return false };
    let status: u16 = rest.get(..3).and_then(|s| s.parse().ok()).unwrap_or(0);
    (400..500).contains(&status) && ![408, 409, 412, 425, 429].contains(&status)
}

/// A local folder that our user may not use, or that is a file.
fn is_local_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as K;
            return matches!(io.kind(), K::PermissionDenied | K::NotADirectory | K::ReadOnlyFilesystem);
        }
        next = error.source();
    }
    false
}

/// Short, so that a caller hears soon what is being waited for; callers wait for as long as it takes.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(15), ..RetryConfig::default() }
}

fn unknown_form(shown: &str) -> BlobError {
    setting(format!(
        "`{shown}` is not of a known form: file:///folder, a path, az://container/prefix, s3://bucket/prefix or \
         gs://bucket/prefix"
    ))
}

/// A URL as it may be shown: without user, password and query.
fn without_secrets(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.has_host() => {
            parsed.set_query(None);
            if parsed.password().is_some() {
                parsed.set_password(Some("***")).ok();
            }
            parsed.to_string()
        }
        _ => url.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// The folder a URL names, `None` if it names a service. `file://rel` is relative to the working directory.
fn local_path(url: &str) -> Result<Option<PathBuf>> {
    let path = match url.strip_prefix("file://") {
        Some(path) => path,
        None if url.contains("://") => return Ok(None),
        None => url.strip_prefix("file:").unwrap_or(url),
    };
    if path.is_empty() {
        return Err(setting("no folder is given: use file:///folder or az://container/prefix"));
    }
    Ok(Some(PathBuf::from(path)))
}

fn azure(url: &str, options: &BTreeMap<String, String>) -> MicrosoftAzureBuilder {
    const CONNECTION_STRING: &str = "azure_storage_connection_string";
    let lower: BTreeMap<String, &str> =
        options.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.as_str())).collect();
    let mut builder =
        MicrosoftAzureBuilder::from_env().with_retry(retry()).with_http_connector(http::Connector::default());
    let from_env = std::env::var(CONNECTION_STRING.to_ascii_uppercase()).ok();
    if let Some(text) = lower.get(CONNECTION_STRING).copied().or(from_env.as_deref()) {
        builder = with_connection_string(builder, text);
    }
    for (key, value) in lower {
        if let Ok(key) = key.parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_url(url)
}

/// Takes over the parts of an Azure storage connection string that name an account, its key and its endpoint.
fn with_connection_string(mut builder: MicrosoftAzureBuilder, text: &str) -> MicrosoftAzureBuilder {
    let parts: BTreeMap<String, &str> = text
        .split(';')
        .filter_map(|part| part.trim().split_once('='))
        .map(|(k, v)| (k.to_ascii_lowercase(), v))
        .collect();
    let part = |name: &str| parts.get(name).copied().filter(|v| !v.is_empty());
    if part("usedevelopmentstorage").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
        return builder.with_use_emulator(true);
    }
    if let Some(account) = part("accountname") {
        builder = builder.with_account(account);
    }
    if let Some(key) = part("accountkey") {
        builder = builder.with_access_key(key);
    }
    if let Some(signature) = part("sharedaccesssignature") {
        builder = builder.with_config(object_store::azure::AzureConfigKey::SasKey, signature);
    }
    let endpoint = part("blobendpoint").map(|e| e.trim_end_matches('/').to_owned()).or_else(|| {
        let protocol = part("defaultendpointsprotocol").unwrap_or("https");
        Some(format!("{protocol}://{}.blob.{}", part("accountname")?, part("endpointsuffix")?))
    });
    if let Some(endpoint) = endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    builder
}

#[cfg(test)]
mod tests;
