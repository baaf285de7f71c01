use super::*;

fn no_options() -> BTreeMap<String, String> {
    BTreeMap::new()
}

fn folder() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs =
        Blobs::open(&format!("file://{}/a folder/blobs", dir.path().display()), &no_options()).unwrap();
    (dir, blobs)
}

#[tokio::test]
async fn a_create_only_put_never_replaces() {
    let (_dir, local) = folder();
    let memory = Blobs::on(Arc::new(object_store::memory::InMemory::new()), Path::from("some/prefix"));
    for blobs in [local, memory] {
        assert!(blobs.put_create("models/1-a/part=0.parquet", Bytes::from_static(b"one")).await.unwrap());
        assert!(!blobs.put_create("models/1-a/part=0.parquet", Bytes::from_static(b"two")).await.unwrap());
        assert_eq!(blobs.get("models/1-a/part=0.parquet").await.unwrap(), "one");
        blobs.put_immutable("models/1-a/part=0.parquet", Bytes::from_static(b"one")).await.unwrap();
        let other = blobs.put_immutable("models/1-a/part=0.parquet", Bytes::from_static(b"two")).await;
        assert!(matches!(other, Err(BlobError::Exists { .. })));
        blobs.put_create("models/0", Bytes::new()).await.unwrap();
        let listed = blobs.list("models").await.unwrap();
        let names: Vec<&str> = listed.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["models/0", "models/1-a/part=0.parquet"]);
        assert_eq!(listed[1].size, 3);
        assert_eq!(blobs.list("nothing").await.unwrap(), []);
        assert!(
            matches!(blobs.get("models/2").await, Err(BlobError::NotFound { name }) if name == "models/2")
        );
        assert_eq!(blobs.get_opt("models/2").await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_root_belongs_to_one_store() {
    let (_dir, blobs) = folder();
    let (ours, theirs) = (Uuid::new_v4(), Uuid::new_v4());
    blobs.ensure_identity(ours).await.unwrap();
    blobs.ensure_identity(ours).await.unwrap();
    let e = blobs.ensure_identity(theirs).await.unwrap_err();
    assert_eq!(e.domain(), Domain::User);
    assert!(e.to_string().contains("`blobs`") && e.to_string().contains(&ours.to_string()), "{e}");
}

#[tokio::test]
async fn an_empty_root_of_a_store_that_was_in_use_is_refused() {
    let (_dir, blobs) = folder();
    let e = blobs.check_identity(Uuid::new_v4(), true).await.unwrap_err();
    assert!(e.to_string().contains("`blobs`"), "{e}");
    assert_eq!(blobs.get_opt(IDENTITY).await.unwrap(), None, "nothing is written");
}

#[test]
fn urls_and_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bare");
    assert_eq!(
        Blobs::open(path.to_str().unwrap(), &no_options()).unwrap().local_root(),
        Some(path.canonicalize().unwrap().as_path())
    );
    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = dir.path().join("file").display().to_string();
    for bad in [file.as_str(), "", "file://", "ftp://host/x", "http://host/x", "az://"] {
        let e = Blobs::open(bad, &no_options()).unwrap_err();
        assert_eq!((e.domain(), e.is_transient()), (Domain::User, false), "{bad}");
        assert!(e.to_string().contains("`blobs`"), "{e}");
    }
    let options: BTreeMap<String, String> =
        [("AZURE_STORAGE_USE_EMULATOR".to_owned(), "true".to_owned())].into();
    let azure = Blobs::open("az://container/some/prefix", &options).unwrap();
    assert_eq!(azure.path("models/1-x/manifest.json").as_ref(), "some/prefix/models/1-x/manifest.json");
    assert_eq!(azure.local_root(), None);
    let options: BTreeMap<String, String> = [(
        "azure_storage_connection_string".to_owned(),
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=c2VjcmV0;\
         BlobEndpoint=http://127.0.0.1:1/devstoreaccount1;"
            .to_owned(),
    )]
    .into();
    Blobs::open("az://container", &options).unwrap();
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_waited_for() {
    let options: BTreeMap<String, String> = [
        ("azure_storage_account_name", "devstoreaccount1"),
        ("azure_storage_account_key", "c2VjcmV0"),
        ("azure_storage_endpoint", "http://127.0.0.1:1/devstoreaccount1"),
        ("azure_allow_http", "true"),
        ("azure_storage_use_emulator", "false"), // whatever the environment says
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let blobs = Blobs::open("az://container", &options).unwrap();
    let e = blobs.get("x").await.unwrap_err();
    assert!(e.is_transient(), "{e}");
    assert_eq!(e.domain(), Domain::External);
}

#[test]
fn refused_requests_are_told_from_busy_services() {
    for (text, refused) in [
        ("Server returned non-2xx status code: 400 Bad Request: x", true),
        ("Server returned non-2xx status code: 405 x", true),
        ("Server returned non-2xx status code: 429 Too Many Requests", false),
        ("Server returned non-2xx status code: 503 x", false),
        ("connection refused", false),
    ] {
        assert_eq!(is_refused_request(text), refused, "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    assert_eq!(without_secrets("az://c/p?sig=secret"), "az://c/p");
    assert_eq!(without_secrets("s3://key:secret@b/p"), "s3://key:***@b/p");
}

/// With FLEETSCORE_TEST_BLOBS, a URL such as `az://container/prefix` whose credentials are in the environment.
#[tokio::test]
async fn a_real_service_keeps_the_same_promises() {
    let Ok(url) = std::env::var("FLEETSCORE_TEST_BLOBS") else {
        eprintln!("left out: FLEETSCORE_TEST_BLOBS is not set");
        return;
    };
    let blobs = Blobs::open(&format!("{url}/{}", Uuid::new_v4()), &no_options()).unwrap();
    assert!(blobs.put_create("a/b.parquet", Bytes::from_static(b"one")).await.unwrap());
    assert!(!blobs.put_create("a/b.parquet", Bytes::from_static(b"two")).await.unwrap());
    assert_eq!(blobs.get("a/b.parquet").await.unwrap(), "one");
    assert!(matches!(blobs.get("a/c").await, Err(BlobError::NotFound { .. })));
    let listed = blobs.list("a").await.unwrap();
    assert_eq!(listed, [Listed { name: "a/b.parquet".into(), size: 3 }]);
    let id = Uuid::new_v4();
    blobs.ensure_identity(id).await.unwrap();
    blobs.ensure_identity(id).await.unwrap();
    assert!(matches!(blobs.ensure_identity(Uuid::new_v4()).await, Err(BlobError::Setting { .. })));
    if url.starts_with("az://") {
        let absent = Blobs::open("az://no-such-container/x", &no_options()).unwrap();
        let e = absent.get("x").await.unwrap_err();
        assert!(matches!(e, BlobError::Setting { .. }), "{e}");
        let wrong: BTreeMap<String, String> =
            [("azure_storage_account_key".to_owned(), "c2VjcmV0".to_owned())].into();
        let e = Blobs::open(&url, &wrong).unwrap().get("x").await.unwrap_err();
        assert!(matches!(e, BlobError::Setting { .. }), "{e}");
    }
}

#[tokio::test]
async fn a_mapped_object_is_the_fetched_one_and_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let local = Blobs::open(dir.path().to_str().unwrap(), &BTreeMap::new()).unwrap();
    let memory = Blobs::on(Arc::new(object_store::memory::InMemory::new()), Path::default());
    for blobs in [local.clone(), memory] {
        for (name, content) in [("models/1-a/part=0 ä.arrow", "content"), ("empty", "")] {
            blobs.put_immutable(name, Bytes::from_static(content.as_bytes())).await.unwrap();
            assert_eq!(blobs.map(name).await.unwrap(), content);
            assert_eq!(blobs.get(name).await.unwrap(), content);
        }
        let missing = blobs.map("models/none").await;
        assert!(matches!(missing, Err(BlobError::NotFound { name }) if name == "models/none"));
    }
    let mapped = local.map("models/1-a/part=0 ä.arrow").await.unwrap();
    std::fs::remove_dir_all(dir.path().join("models")).unwrap();
    assert_eq!(mapped, "content");
}

/// A service that reads every request, waits for so long, and answers: a GET with these parts, such a pause before each.
async fn slow_service(wait: Duration, parts: usize) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const HEAD: &str = "ETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nConnection: close\r\n";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/devstoreaccount1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let head = seen.windows(4).position(|w| w == b"\r\n\r\n");
                    let whole = head.is_some_and(|head| {
                        let text = String::from_utf8_lossy(&seen[..head]).to_lowercase();
                        let length = text.lines().find_map(|l| l.strip_prefix("content-length: "));
                        seen.len() >= head + 4 + length.map_or(0, |l| l.trim().parse::<usize>().unwrap())
                    });
                    if whole {
                        break;
                    }
                    if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                if !seen.starts_with(b"GET ") {
                    tokio::time::sleep(wait).await;
                    let answer = format!("HTTP/1.1 201 Created\r\n{HEAD}Content-Length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.ok();
                    return;
                }
                let head = format!("HTTP/1.1 200 OK\r\n{HEAD}Content-Length: {}\r\n\r\n", 4 * parts);
                stream.write_all(head.as_bytes()).await.ok();
                for _ in 0..parts {
                    stream.flush().await.ok();
                    tokio::time::sleep(wait).await;
                    stream.write_all(b"part").await.ok();
                }
            });
        }
    });
    url
}

/// Blobs of a service at this address, for which a request may take so long.
fn impatient(url: &str, timeout: &str) -> Blobs {
    let options: BTreeMap<String, String> = [
        ("azure_storage_account_name", "devstoreaccount1"),
        ("azure_storage_account_key", "c2VjcmV0"),
        ("azure_storage_endpoint", url),
        ("azure_allow_http", "true"),
        ("azure_storage_use_emulator", "false"), // whatever the environment says
        ("azure_timeout", timeout),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    Blobs::open("az://container", &options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_may_take_longer_than_the_usual_request() {
    let blobs = impatient(&slow_service(Duration::from_secs(1), 0).await, "200ms");
    let small = blobs.put_create("small", Bytes::from_static(b"one")).await;
    assert!(small.as_ref().is_err_and(Classify::is_transient), "{small:?}");
    assert!(blobs.put_create("large", vec![7; 2 * http::LARGE].into()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_take_long_but_not_keep_silent_for_long() {
    let pause = Duration::from_millis(150);
    // Ten parts take longer than any request may, but none of them keeps silent for so long.
    let blobs = impatient(&slow_service(pause, 10).await, "1s");
    assert_eq!(blobs.get("slow").await.unwrap(), "part".repeat(10));
    let blobs = impatient(&slow_service(pause * 100, 2).await, "200ms");
    let silent = blobs.get("silent").await;
    assert!(silent.as_ref().is_err_and(Classify::is_transient), "{silent:?}");
}
