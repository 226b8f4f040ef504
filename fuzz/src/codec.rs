//! What a client sends to the control socket, and what a switch answers to a client.

use control::api::{Decoder, MAX_LINE, Refusal, Request, Response};

use crate::Input;

fn decode(pieces: &[&[u8]]) -> Vec<Result<Request, Refusal>> {
    let mut decoder = Decoder::new();
    pieces.iter().flat_map(|piece| decoder.feed(piece)).collect()
}

/// Lines that deserve an answer: whole ones that are not blank, and those that are too long, whole or not.
fn lines(text: &[u8]) -> usize {
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    let last = lines.len() - 1;
    let deserves = |(n, line): &(usize, &&[u8])| line.len() > MAX_LINE || *n != last && !line.trim_ascii().is_empty();
    lines.iter().enumerate().filter(deserves).count()
}

/// Runs one input: the first bytes say how the rest is cut.
///
/// # Panics
/// When the cuts change what is understood, or an answer is not a line that a client reads.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = [input.u8(), input.u8(), input.u8(), input.u8()];
    // A first line repeated often enough passes every bound on a line's length.
    let text = input.rest();
    let (line, tail) = text.split_at(text.iter().position(|b| *b == b'\n').unwrap_or(text.len()));
    let most = (2 * MAX_LINE / line.len().max(1)).max(1);
    let repeat = if cuts[0] == 0xff { 1 + usize::from(cuts[1]) * 16 } else { 1 };
    let text = [&line.repeat(repeat.min(most)), tail].concat();
    let whole = decode(&[&text]);
    let (mut pieces, mut rest) = (Vec::new(), &text[..]);
    for cut in cuts.iter().cycle().take(64) {
        let (head, tail) = rest.split_at(usize::from(*cut).min(rest.len()));
        pieces.push(head);
        rest = tail;
    }
    pieces.push(rest);
    let cut = decode(&pieces);
    assert!(whole == cut, "bytes mean the same however they are cut");
    assert_eq!(whole.len(), lines(&text), "each line is answered");
    for outcome in whole {
        let answer = match outcome {
            Ok(request) => {
                let again = decode(&[&request.to_line()]);
                let [Ok(again)] = &again[..] else { panic!("a request that cannot be sent: {again:?}") };
                assert_eq!((again.id, &again.method), (request.id, &request.method));
                Response::unknown_method(&request)
            }
            Err(refusal) => refusal.into(),
        };
        let line = answer.to_line();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "an answer is one line");
        assert_eq!(Response::from_line(&line).as_ref(), Ok(&answer), "a client reads what was answered");
    }
    // The client's side: any line at all.
    if let Ok(response) = Response::from_line(&text) {
        assert!(Response::from_line(&response.to_line()).is_ok());
    }
}
