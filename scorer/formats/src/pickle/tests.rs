use super::*;
use fleetscore_kernel::is_anomaly;
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(data().join(name)).unwrap()
}

fn refused(bytes: &[u8]) -> PickleError {
    read_model(bytes).expect_err("must be refused")
}

fn number(v: &serde_json::Value) -> f64 {
    v.as_f64().unwrap()
}

/// Every pickle in a folder made by `make.py` scores as scikit-learn said it does.
fn check_folder(folder: &Path) -> usize {
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let expected = expected.as_object().unwrap();
    for (name, said) in expected {
        let model =
            read_model(&std::fs::read(folder.join(name)).unwrap()).unwrap_or_else(|e| panic!("{name} {e}"));
        let rows = said["rows"].as_array().unwrap();
        for (row, decision) in rows.iter().zip(said["decisions"].as_array().unwrap()) {
            let x: Vec<f64> = row.as_array().unwrap().iter().map(number).collect();
            let (ours, theirs) = (model.decision(&x), number(decision));
            // BLAS sums the features of a dot product in an order of its own.
            assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0), "{name} {x:?}: {ours} {theirs}");
        }
    }
    expected.len()
}

#[test]
fn pickles_of_all_protocols_and_versions_score_as_scikit_learn_does() {
    assert!(check_folder(&data()) >= 17);
    // More of them, where somebody made some: a folder with the output of make.py.
    if let Ok(folders) = std::env::var("FLEETSCORE_PICKLES") {
        for folder in folders.split(':') {
            assert!(check_folder(Path::new(folder)) > 0);
        }
    }
}

#[test]
fn the_reference_models_give_the_golden_predictions() {
    let reference = std::env::var("FLEETSCORE_REFERENCE")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference"), PathBuf::from);
    let Ok(golden) = std::fs::read_to_string(reference.join("golden_predictions.csv")) else {
        eprintln!("left out: there is no {} (set FLEETSCORE_REFERENCE)", reference.display());
        return;
    };
    let mut models = std::collections::BTreeMap::new();
    for file in std::fs::read_dir(reference.join("models")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        models.insert(name, read_model(&std::fs::read(path).unwrap()).unwrap());
    }
    let mut rows = 0;
    for line in golden.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [_, device, sensor, value, label, decision] = fields[..] else { panic!("{line}") };
        let model = &models[&format!("model_{device}_{sensor}")];
        let ours = model.decision(&[value.parse().unwrap()]);
        let golden: f64 = decision.parse().unwrap();
        assert!((ours - golden).abs() <= 1e-15, "{line}: {ours}");
        assert_eq!(u8::from(is_anomaly(ours)).to_string(), label, "{line}: {ours}");
        rows += 1;
    }
    assert_eq!((rows, models.len()), (11_837, 10));
}

/// Protocol 4 text and the rest of a call, for pickles that attack.
fn text(s: &str) -> Vec<u8> {
    [&[0x8c, s.len() as u8], s.as_bytes()].concat()
}

#[test]
fn a_pickle_that_calls_something_is_refused_by_name_and_offset() {
    let proof = std::env::temp_dir().join(format!("fleetscore-pickle-{}", std::process::id()));
    let command = format!("touch {}", proof.display());
    let stack_global = |module: &str, name: &str| {
        [b"\x80\x04".to_vec(), text(module), text(name), b"\x93".to_vec(), text(&command), b"\x85R.".to_vec()]
            .concat()
    };
    let nested = {
        // A good model whose `mean_` comes from a call.
        let good = fixture("1.2_rbf_p3.pkl");
        let at = good.windows(6).position(|w| w == b"mean_q").unwrap() + 7;
        [&good[..at], b"cos\nsystem\nX\x02\0\0\0id\x85R", &good[at..]].concat()
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (format!("cos\nsystem\n(S'{command}'\ntR.").into_bytes(), "`os.system` at offset 0"),
        (format!("cposix\nsystem\n(V{command}\ntR.").into_bytes(), "`posix.system` at offset 0"),
        (stack_global("os", "system"), "`os.system` at offset 14"),
        (stack_global("builtins", "eval"), "`builtins.eval` at offset 18"),
        (stack_global("builtins", "getattr"), "`builtins.getattr`"),
        (stack_global("numpy", "load"), "`numpy.load`"),
        (stack_global("sklearn.svm", "OneClassSVM.fit"), "`sklearn.svm.OneClassSVM.fit`"),
        (stack_global("scipy.sparse._csr", "csr_matrix"), "`scipy.sparse._csr.csr_matrix`"),
        (
            stack_global("numpy.random._pickle", "__randomstate_ctor"),
            "`numpy.random._pickle.__randomstate_ctor`",
        ),
        (format!("(S'{command}'\nios\nsystem\n.").into_bytes(), "`os.system` at offset "),
        (format!("(cos\nsystem\nS'{command}'\no.").into_bytes(), "`os.system` at offset 1"),
        (b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.".to_vec(), "`__builtin__.eval` at offset 2"),
        (nested, "`os.system` at offset "),
    ];
    for (bytes, named) in cases {
        let e = refused(&bytes);
        assert!(matches!(e, PickleError::Global { .. }), "{e:?}");
        assert!(
            e.to_string().contains(named) && e.to_string().contains("nothing was executed"),
            "{named}: {e}"
        );
    }
    assert!(!proof.exists());
}

#[test]
fn a_pickle_cut_at_any_byte_says_where() {
    for name in ["1.2_rbf_p0.pkl", "1.2_rbf_p2.pkl", "1.2_rbf_p3.pkl", "1.9_rbf_p5.pkl", "1.9_rbf.joblib"] {
        let good = fixture(name);
        for end in 0..good.len() {
            match refused(&good[..end]) {
                PickleError::Truncated { at, left, .. } => assert!(at + left <= end, "{name} at {end}"),
                other => panic!("{name} cut at {end}: {other}"),
            }
        }
    }
}

#[test]
fn a_changed_byte_never_panics_and_never_gives_an_invalid_model() {
    for name in ["1.2_rbf_p2.pkl", "1.9_two_rbf_p5.pkl", "1.2_rbf.joblib"] {
        let good = fixture(name);
        for at in 0..good.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                if let Ok(model) = read_model(&bad) {
                    model.validate().unwrap();
                }
            }
        }
    }
}

/// Replaces the first occurrence.
fn patched(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).expect("is in the fixture");
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn wrong_shapes_and_missing_attributes_are_named() {
    let good = fixture("1.2_rbf_p3.pkl");
    let renamed = |from: &str, to: &str| patched(&good, from.as_bytes(), to.as_bytes());
    // In the state of an array, (version, shape, dtype, …), protocol 3 writes the shape of support_vectors_ as
    // K<rows> K<columns> TUPLE2.
    let at = good.windows(16).position(|w| w == b"support_vectors_").unwrap();
    let mut wrong_shape = good.clone();
    let rows =
        good[at..].windows(5).position(|w| w[0] == b'K' && w[2] == b'K' && w[4] == 0x86).unwrap() + at + 1;
    wrong_shape[rows] += 1;
    for (bytes, named) in [
        (wrong_shape, "`OneClassSVM.support_vectors_` has"),
        (renamed("support_vectors_", "support_vectorS_"), "`OneClassSVM.support_vectors_` is missing"),
        (renamed("kernel", "kernes"), "`OneClassSVM.kernel` is missing"),
        (renamed("X\x03\0\0\0rbf", "X\x03\0\0\0rbg"), "`OneClassSVM.kernel` is 'rbg'"),
        (renamed("mean_q", "meanXq"), "`StandardScaler.mean_` is missing"),
        (renamed("scale_q", "scaleXq"), "`StandardScaler.scale_` is missing"),
        (renamed("X\x05\0\0\0steps", "X\x05\0\0\0stepZ"), "`Pipeline.steps` is missing"),
        (b"\x80\x03K\x01.".to_vec(), "`the pickle` is 1"),
        (b"\x80\x03csklearn.preprocessing.data\nStandardScaler\n)\x81}b.".to_vec(), "is a StandardScaler"),
        (b"\x80\x03csklearn.svm.classes\nOneClassSVM\n)\x81.".to_vec(), "`OneClassSVM` has no attributes"),
        (b"\x1f\x8b\x08".to_vec(), "compressed (gzip)"),
    ] {
        let e = refused(&bytes).to_string();
        assert!(e.contains(named), "{named}: {e}");
    }
}

#[test]
fn nan_in_a_model_is_named() {
    let good = fixture("1.9_bare_scale_p4.pkl");
    let model = read_model(&good).unwrap();
    let bad = patched(&good, &model.dual_coef[0].to_le_bytes(), &f64::NAN.to_le_bytes());
    let e = refused(&bad).to_string();
    assert!(e.contains("dual_coef_") && e.contains("NaN"), "{e}");
}

#[test]
fn small_attacks_on_memory_are_refused() {
    let huge = |opcode: u8, n: u64| [&[0x80, 4, opcode], &n.to_le_bytes()[..]].concat();
    for bytes in [huge(0x8e, u64::MAX), huge(0x8d, 1 << 60), huge(0x96, 1 << 40), huge(0x95, 1 << 50)] {
        assert!(matches!(refused(&bytes), PickleError::Truncated { .. }));
    }
    // Many small opcodes: lists of lists, marks, duplicates.
    for opcode in [b']', b'(', b'}', b')', b'N'] {
        let bytes = vec![opcode; opcodes::MAX_OPCODES + 10];
        assert!(matches!(refused(&bytes), PickleError::TooLarge { .. }), "{opcode}");
    }
    // A shape whose product overflows, and one far larger than the data.
    for n in [i64::MAX, 1 << 40] {
        let array = [
            b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
                .to_vec(),
            [&b"\x8a\x08"[..], &n.to_le_bytes()].concat(),
            [&b"\x8a\x08"[..], &n.to_le_bytes()].concat(),
            b"\x86cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R\x89C\x04abcdtb.".to_vec(),
        ]
        .concat();
        let tree = Tree::read(&array).unwrap();
        let e = numpy::array(&tree, tree.root).unwrap_err();
        assert!(e.contains("shape"), "{e}");
    }
    // A list that contains itself and a state that is its own object end at once.
    assert!(read_model(b"\x80\x04]\x94h\x00a.").is_err());
    assert!(read_model(b"\x80\x03csklearn.svm.classes\nOneClassSVM\n)\x81q\x00h\x00b.").is_err());
}

#[test]
fn small_attacks_on_time_are_refused_at_once() {
    let limit = |bytes: &[u8]| match refused(bytes) {
        PickleError::TooLarge { what, .. } => what,
        other => panic!("{other}"),
    };
    // One state of many pairs, memoised, for many joblib arrays.
    let wrapper = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\nq\x010";
    let junk = [&b"}q\x02("[..], &b"NN".repeat(20_000), b"u0"].concat();
    let build = b"h\x01)\x81h\x02b";
    let bytes = [&b"\x80\x03"[..], wrapper, &junk, &build.repeat(5_000)].concat();
    assert_eq!(limit(&bytes), "attributes of a joblib array");
    // Many arrays, each of them fine: of no elements.
    let small = [
        &b"}q\x02(X\x08\0\0\0subclasscnumpy\nndarray\nX\x05\0\0\0shapeK\0\x85X\x05\0\0\0dtypecnumpy\ndtype\nX\x02\0\0\0f8\x85RX\x05\0\0\0orderX\x01\0\0\0C"[..],
        b"u0",
    ]
    .concat();
    let bytes = [&b"\x80\x03"[..], wrapper, &small, &build.repeat(5_000)].concat();
    assert_eq!(limit(&bytes), "joblib arrays");
    // A memoised tuple handed to many calls, and a long one.
    let dtype = b"cnumpy\ndtype\nq\x010NNNN(t0(NNNNtq\x020";
    let bytes = [&b"\x80\x03"[..], dtype, &b"h\x01h\x02R".repeat(20_000)].concat();
    assert_eq!(limit(&bytes), "calls");
    for call in [&b"cnumpy\ndtype\n(NNNNNNNNNtR"[..], b"(cnumpy\ndtype\nNNNNNNNNNo"] {
        assert_eq!(limit(&[b"\x80\x03", call].concat()), "arguments of a call");
    }
    // An estimator of more attributes than any has.
    let svm =
        [&b"\x80\x03csklearn.svm.classes\nOneClassSVM\n)\x81}("[..], &b"NN".repeat(300), b"ub."].concat();
    assert!(refused(&svm).to_string().contains("more than 256 attributes"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_model(&bytes);
    }

    #[test]
    fn any_opcodes_are_read_or_refused(
        ops in proptest::collection::vec(
            prop::sample::select(&b"(.012NKMJ}]){dltaesubRcoiXCqhpg\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x90\x91\x92\x93\x94\x95\x96\n\x01\x02\x00"[..]),
            0..200,
        )
    ) {
        let _ = read_model(&ops);
    }

    #[test]
    fn spliced_pickles_are_read_or_refused(a in 0usize..1400, b in 0usize..1400, n in 0usize..200) {
        let good = fixture("1.9_rbf_p5.pkl");
        let (a, b) = (a.min(good.len()), b.min(good.len()));
        let piece = &good[b..(b + n).min(good.len())];
        let spliced = [&good[..a], piece, &good[a..]].concat();
        if let Ok(model) = read_model(&spliced) {
            prop_assert!(model.validate().is_ok());
        }
    }
}
