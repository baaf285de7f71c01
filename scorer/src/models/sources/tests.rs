use super::*;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use std::sync::Arc;

fn local(dir: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    local_files(dir, &mut found).map(|()| found)
}

/// Names below `dir`, with what is said of them.
fn said(dir: &Path, found: &[Source]) -> Vec<(String, String)> {
    let name = |s: &Source| s.path.strip_prefix(&format!("{}/", dir.display())).unwrap_or(&s.path).to_owned();
    let verdict = |s: &Source| match s.verdict() {
        Verdict::Read => "read".to_owned(),
        Verdict::Refused(why) | Verdict::Skipped(why) => why,
    };
    found.iter().map(|s| (name(s), verdict(s))).collect()
}

#[tokio::test]
#[cfg(unix)]
async fn what_is_no_file_or_has_no_end_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("/dev/zero", path("a_endless")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path("b_pipe")).status().unwrap().success());
    let limit = Limits::default().max_bytes as u64;
    std::fs::File::create(path("c_large")).unwrap().set_len(limit + 1).unwrap();
    std::fs::write(path("target"), b"x").unwrap();
    std::os::unix::fs::symlink(path("target"), path("d_link")).unwrap();
    std::os::unix::fs::symlink(path("gone"), path("e_broken")).unwrap();
    let (mut why, mut held) = (Vec::new(), Vec::new());
    for source in local(dir.path()).unwrap() {
        why.push(source.read(false).await.unwrap().map(|b| b.len()));
        held.push(source.held(false).await.unwrap());
    }
    let no_file = || Err("is not a regular file".to_owned());
    let large = Err(format!("is larger than {limit} bytes"));
    let broken = why[4].clone();
    assert!(broken.as_ref().is_err_and(|e| e.starts_with("cannot be read: ")), "{broken:?}");
    assert_eq!(why, [no_file(), no_file(), large, Ok(1), broken, Ok(1)]);
    assert_eq!(held, why.iter().map(|w| w.clone().map(|n| n as u64)).collect::<Vec<_>>());
}

#[tokio::test]
async fn files_of_many_models_are_mapped_and_take_no_memory_of_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.jsonl"), b"some text").unwrap();
    std::fs::write(dir.path().join("n.jsonl"), b"").unwrap();
    let found = local(dir.path()).unwrap();
    assert_eq!(found[0].held(true).await.unwrap(), Ok(0));
    assert_eq!(found[0].read(true).await.unwrap().unwrap(), "some text");
    assert_eq!(found[1].read(true).await.unwrap().unwrap(), "");
    assert_eq!(found[0].head().await.unwrap().unwrap(), "some text");
}

#[test]
fn an_empty_folder_is_an_error_and_hidden_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let e = local(dir.path()).unwrap_err().to_string();
    assert!(e.contains("is an empty folder"), "{e}");
    std::fs::create_dir_all(dir.path().join(".git/objects")).unwrap();
    std::fs::write(dir.path().join(".git/objects/model_a_b"), b"").unwrap();
    std::fs::write(dir.path().join(".model_a_b"), b"").unwrap();
    std::fs::create_dir(dir.path().join("below")).unwrap();
    let hidden = |name: &str| (name.to_owned(), "is hidden".to_owned());
    assert_eq!(said(dir.path(), &local(dir.path()).unwrap()), [hidden(".git"), hidden(".model_a_b")]);
}

#[test]
fn folders_are_followed_to_a_depth_and_refused_beyond_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = dir.path().to_owned();
    for depth in 0..MAX_DEPTH + 3 {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model_a_b"), b"").unwrap();
        folder.push(format!("{depth}"));
    }
    let found = local(dir.path()).unwrap();
    let read = found.iter().filter(|s| s.verdict() == Verdict::Read).count();
    let refused: Vec<&Source> = found.iter().filter(|s| matches!(s.verdict(), Verdict::Refused(_))).collect();
    assert_eq!((read, refused.len()), (MAX_DEPTH + 1, 1));
    assert!(refused[0].path.ends_with(&format!("/{MAX_DEPTH}")), "{}", refused[0].path);
    assert!(matches!(refused[0].verdict(), Verdict::Refused(why) if why.contains("deeper than 32 folders")));
    // From there it can be named itself.
    assert_eq!(local(Path::new(&refused[0].path)).unwrap().len(), 2);
}

#[test]
#[cfg(unix)]
fn links_in_circles_and_of_many_ways_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // 2^40 ways lead to the last folder.
    for depth in 0..40 {
        std::fs::create_dir(path(&format!("f{depth:02}"))).unwrap();
        for way in ["a", "b"] {
            symlink(path(&format!("f{:02}", depth + 1)), path(&format!("f{depth:02}/{way}"))).unwrap();
        }
    }
    std::fs::create_dir(path("f40")).unwrap();
    std::fs::write(path("f40/model_a_b"), b"").unwrap();
    symlink(dir.path(), path("f40/up")).unwrap();
    symlink(path("f40/self"), path("f40/self")).unwrap();
    let said = said(dir.path(), &local(dir.path()).unwrap());
    let (again, others): (Vec<_>, Vec<_>) =
        said.iter().partition(|(_, why)| why.contains("which is read already"));
    assert_eq!(again.len(), 81, "{again:?}");
    // A link to itself is no folder: it is refused when it is read.
    let read = |name: &str| (name.to_owned(), "read".to_owned());
    assert_eq!(others, [&read("f40/model_a_b"), &read("f40/self")]);
}

#[test]
#[cfg(target_os = "linux")]
fn names_that_are_not_utf_8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"model_a_\xff"[..], b"model_a_\xfe", b"notes\xff.txt"] {
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
    }
    let found = local(dir.path()).unwrap();
    let why: Vec<Verdict> = found.iter().map(Source::verdict).collect();
    let refused = Verdict::Refused("has a name that is not UTF-8: rename it".into());
    assert_eq!(why, [refused.clone(), refused, Verdict::Read]);
}

#[test]
#[cfg(unix)]
fn a_file_is_read_once_however_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["x", "y", "sub/z"] {
        std::fs::write(dir.path().join(name), b"").unwrap();
    }
    std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
    let one = |name: &str, explicit: bool, sensor: Option<&str>| Listed {
        source: file(&dir.path().join(name), explicit),
        series: sensor.map(|s| SeriesName::new("d", s)),
    };
    let listed = vec![
        one("x", false, None),
        one("y", false, None),
        one("sub/z", false, None),
        one("sub/../x", true, Some("1")),
        one("link/x", true, Some("2")),
        one("x", true, Some("1")),
        one("sub/z", false, None),
    ];
    let all: Vec<(String, bool)> = once(listed)
        .iter()
        .map(|l| (l.source.path.rsplit_once('/').unwrap().1.into(), l.source.verdict() == Verdict::Read))
        .collect();
    let wanted = [("y", true), ("z", true), ("x", true), ("x", true), ("x", false), ("z", false)];
    assert_eq!(all, wanted.map(|(name, read)| (name.to_owned(), read)));
}

async fn objects(names: &[&str]) -> Blobs {
    let store = Arc::new(InMemory::new());
    for name in names {
        let size = usize::from(!name.ends_with("marker"));
        store.put(&BlobPath::parse(format!("in/{name}")).unwrap(), vec![b'x'; size].into()).await.unwrap();
    }
    Blobs::on(store, BlobPath::from("in"))
}

#[tokio::test]
async fn objects_follow_the_rules_of_folders() {
    let deep = format!("{}model_d_e", "f/".repeat(MAX_DEPTH + 1));
    let names = [".git/a", ".git/b", "marker", "marker/model_a_b", "model_p#3_t~1", "sub/.x", &deep];
    let root = objects(&names).await;
    let found = object::below(&root, "az://c/in/").await.unwrap();
    let said = said(Path::new("az://c/in"), &found);
    let wanted = [
        (".git", "is hidden"),
        (deep.as_str(), "lies deeper than 32 folders: name its folder as a source itself"),
        ("marker", "is the mark of a folder"),
        ("marker/model_a_b", "read"),
        ("model_p#3_t~1", "read"),
        ("sub/.x", "is hidden"),
    ];
    assert_eq!(said, wanted.map(|(name, why)| (name.to_owned(), why.to_owned())));
    // A name with characters that URLs encode is asked for as it was listed.
    assert_eq!(found[4].read(false).await.unwrap().unwrap(), "x");
    assert_eq!(found[4].head().await.unwrap().unwrap(), "x");
    assert!(object::one(&root, "model_p#3_t~1", "u").await.unwrap().is_some());
    assert!(object::one(&root, "absent", "u").await.unwrap().is_none());
}

#[tokio::test]
async fn a_large_blob_is_not_fetched_and_a_large_table_is_mapped() {
    let root = objects(&[]).await;
    let of = |name: &str, size: u64| Source {
        path: name.into(),
        file_name: name.into(),
        explicit: true,
        place: Place::Blob(root.clone(), object::location(&root, name), size),
    };
    // It does not exist: only its listed size can refuse it.
    let large = of("x", Limits::default().max_bytes as u64 + 1);
    assert!(large.read(false).await.unwrap().unwrap_err().starts_with("is larger than"));
    assert!(of("x", 1).read(false).await.unwrap().unwrap_err().contains("does not exist any more"));
    let table: Bytes =
        (0..object::FETCHED as u32 / 2).flat_map(|i| i.to_le_bytes()).collect::<Vec<_>>().into();
    root.store.put(&object::location(&root, "t.jsonl"), table.clone().into()).await.unwrap();
    let source = of("t.jsonl", table.len() as u64);
    assert_eq!(source.held(true).await.unwrap(), Ok(0));
    assert!(source.read(true).await.unwrap().unwrap() == table);
    // One that grew since it was listed is not what was counted.
    assert!(of("t.jsonl", 1).read(false).await.unwrap().unwrap_err().contains("changed while"));
}
