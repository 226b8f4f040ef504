use super::*;

fn ok(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Request> {
    decoder.feed(bytes).into_iter().map(Result::unwrap).collect()
}

fn show(id: u64) -> Request {
    Request { id, method: "show".to_owned(), params: json!({}) }
}

#[test]
fn requests_arrive_however_they_are_cut() {
    let bytes = [show(1).to_line(), b"\r\n \n".to_vec(), show(2).to_line()].concat();
    for size in 1..=bytes.len() {
        let mut decoder = Decoder::new();
        let requests: Vec<Request> = bytes.chunks(size).flat_map(|chunk| ok(&mut decoder, chunk)).collect();
        assert_eq!(requests, [show(1), show(2)], "in pieces of {size}");
    }
}

#[test]
fn params_may_be_absent() {
    let requests = ok(&mut Decoder::new(), b"{\"id\":7,\"method\":\"ping\"}\n");
    assert_eq!(requests, [Request { id: 7, method: "ping".to_owned(), params: Value::Null }]);
}

#[test]
fn nonsense_is_refused_and_the_next_request_is_served() {
    for (line, id) in [
        ("nonsense", None),
        ("[]", None),
        ("\u{0}", None),
        ("{\"id\":3}", Some(3)),
        ("{\"id\":-3,\"method\":\"show\"}", None),
        ("{\"id\":4,\"method\":5}", Some(4)),
        ("{\"method\":\"show\"}", None),
    ] {
        let mut decoder = Decoder::new();
        let got = decoder.feed(format!("{line}\n{{\"id\":1,\"method\":\"show\",\"params\":{{}}}}\n").as_bytes());
        assert_eq!(got.len(), 2, "{line}");
        assert_eq!(got[0].as_ref().unwrap_err().id, id, "{line}");
        assert_eq!(got[1], Ok(show(1)), "{line}");
    }
    assert!(Decoder::new().feed(b"\xff\xfe\n")[0].is_err());
}

#[test]
fn deep_nesting_is_refused() {
    let mut bytes = vec![b'['; MAX_LINE];
    bytes.push(b'\n');
    assert!(Decoder::new().feed(&bytes)[0].is_err());
}

#[test]
fn a_long_line_is_refused_once_and_held_nowhere() {
    let mut decoder = Decoder::new();
    let mut refusals = 0;
    for _ in 0..1000 {
        refusals += decoder.feed(&[b'x'; 4096]).len();
        assert!(decoder.partial.len() <= MAX_LINE);
    }
    assert_eq!(refusals, 1);
    assert_eq!(ok(&mut decoder, b"the end\n"), []);
    assert_eq!(ok(&mut decoder, &show(9).to_line()), [show(9)]);
}

#[test]
fn the_longest_line_is_served() {
    let mut line = show(1).to_line();
    line.pop();
    line.resize(MAX_LINE, b' ');
    line.push(b'\n');
    assert_eq!(ok(&mut Decoder::new(), &line), [show(1)]);
    line.insert(0, b' ');
    assert!(Decoder::new().feed(&line)[0].is_err());
}

#[test]
fn answers_go_there_and_back() {
    for response in [
        Response::result(1, json!({"a": "two\nlines"})),
        Response::error(2, "no such port"),
        Response::from(Refusal { id: None, message: "not JSON".to_owned() }),
        Response::result(3, Value::Null),
    ] {
        let line = response.to_line();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(Response::from_line(&line), Ok(response));
    }
    assert!(Response::from_line(b"{\"id\":1}").is_err());
    assert!(Response::from_line(b"HTTP/1.1 200 OK").is_err());
}

#[test]
fn an_unknown_method_is_named() {
    let request = Request { id: 5, method: "reload".to_owned(), params: Value::Null };
    assert_eq!(
        Response::unknown_method(&request),
        Response::error(5, "unknown method \"reload\"; this switch knows show and ping")
    );
}
