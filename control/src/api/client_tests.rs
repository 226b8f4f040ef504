use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;

use serde_json::json;

use super::*;
use crate::api::status_sample as sample;
use crate::api::{Decoder, METHOD_PING};

const LONG: Duration = Duration::from_secs(10);

struct Lab {
    _dir: tempfile::TempDir,
    path: PathBuf,
    listener: UnixListener,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    Lab { _dir: dir, path, listener }
}

/// Serves one connection: reads one request, writes `answer` of it in small pieces.
fn serve(lab: &Lab, answer: impl FnOnce(Request) -> Vec<u8> + Send + 'static) -> thread::JoinHandle<()> {
    let listener = lab.listener.try_clone().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut decoder = Decoder::new();
        let mut bytes = [0; 512];
        let request = loop {
            let count = stream.read(&mut bytes).unwrap();
            if let Some(request) = decoder.feed(&bytes[..count]).pop() {
                break request.unwrap();
            }
        };
        for piece in answer(request).chunks(100) {
            stream.write_all(piece).unwrap();
        }
    })
}

#[test]
fn asks_and_hears() {
    let lab = lab();
    let server = serve(&lab, |request| {
        assert_eq!(request.method, METHOD_PING);
        Response::result(request.id, json!({"x": request.params})).to_line()
    });
    assert_eq!(call(&lab.path, METHOD_PING, json!([1]), LONG), Ok(json!({"x": [1]})));
    server.join().unwrap();

    let server = serve(&lab, |request| Response::result(request.id, serde_json::to_value(sample()).unwrap()).to_line());
    assert_eq!(super::show(&lab.path, LONG), Ok(sample()));
    server.join().unwrap();

    let server = serve(&lab, |request| Response::error(request.id, "not today").to_line());
    assert_eq!(call(&lab.path, METHOD_PING, Value::Null, LONG), Err("not today".to_owned()));
    server.join().unwrap();
}

#[test]
fn strange_answers_are_sentences() {
    let lab = lab();
    let shown = lab.path.display().to_string();
    for (answer, want) in [
        (b"".to_vec(), format!("the switch at {shown} closed the connection unanswered; see its log")),
        (
            b"{\"id\":1}\n".to_vec(),
            format!(
                "the answer from {shown} is not understood because it has neither a result nor an error; give another --socket PATH"
            ),
        ),
    ] {
        let server = serve(&lab, |_| answer);
        assert_eq!(call(&lab.path, METHOD_PING, Value::Null, LONG), Err(want));
        server.join().unwrap();
    }
    let server = serve(&lab, |request| Response::result(request.id, json!({"switch": 1})).to_line());
    assert!(
        super::show(&lab.path, LONG).unwrap_err().starts_with(&format!("the status from {shown} is not understood ("))
    );
    server.join().unwrap();
}

#[test]
fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let want = format!("no switch answers at {}; is `vswitch run` running, or give --socket PATH", path.display());
    assert_eq!(call(&path, METHOD_PING, Value::Null, LONG), Err(want.clone()));
    // A socket file whose switch is gone.
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(call(&path, METHOD_PING, Value::Null, LONG), Err(want));
}

#[test]
fn a_silent_switch_is_given_up() {
    let lab = lab();
    let error = call(&lab.path, METHOD_PING, Value::Null, Duration::from_millis(50)).unwrap_err();
    let want = format!(
        "the switch at {} did not answer within 0.05 s; see its log and whether its CPU is free",
        lab.path.display()
    );
    assert_eq!(error, want);
}
