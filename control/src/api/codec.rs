//! Requests and answers as bytes. Pure: whoever owns the socket brings the bytes.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::MAX_LINE;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back with the answer.
    pub id: u64,
    /// What to do.
    pub method: String,
    /// With what; absent counts as null.
    #[serde(default)]
    pub params: Value,
}

impl Request {
    /// The request as a line, newline included.
    pub fn to_line(&self) -> Vec<u8> {
        line(&json!({"id": self.id, "method": self.method, "params": self.params}))
    }
}

/// A line that is no request; to be answered, as the connection is still in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The request's number where one could be read.
    pub id: Option<u64>,
    /// Why it was refused, one sentence.
    pub message: String,
}

/// What the switch answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The request's number; `None` when the request had none that could be read.
    pub id: Option<u64>,
    /// The result, or one sentence why there is none.
    pub outcome: Result<Value, String>,
}

impl Response {
    /// The answer to a request that was carried out.
    pub fn result(id: u64, value: Value) -> Response {
        Response { id: Some(id), outcome: Ok(value) }
    }

    /// The answer to a request that was not carried out.
    pub fn error(id: u64, message: impl Into<String>) -> Response {
        Response { id: Some(id), outcome: Err(message.into()) }
    }

    /// The answer to a request whose method nobody knows.
    pub fn unknown_method(request: &Request) -> Response {
        let shown: String = request.method.chars().take(40).collect();
        let message = format!("unknown method \"{}\"; this switch knows show and ping", shown.escape_debug());
        Response::error(request.id, message)
    }

    /// The answer as a line, newline included.
    pub fn to_line(&self) -> Vec<u8> {
        match &self.outcome {
            Ok(result) => line(&json!({"id": self.id, "result": result})),
            Err(message) => line(&json!({"id": self.id, "error": {"message": message}})),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// What of the line is not an answer.
    pub fn from_line(line: &[u8]) -> Result<Response, String> {
        let mut value: Value = serde_json::from_slice(line).map_err(|error| format!("it is no JSON: {error}"))?;
        let id = value.get("id").and_then(Value::as_u64);
        if let Some(result) = value.get_mut("result") {
            return Ok(Response { id, outcome: Ok(result.take()) });
        }
        match value.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => Ok(Response { id, outcome: Err(message.to_owned()) }),
            None => Err("it has neither a result nor an error".to_owned()),
        }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        Response { id: refusal.id, outcome: Err(refusal.message) }
    }
}

fn line(value: &Value) -> Vec<u8> {
    // JSON text holds no raw newline: strings escape it.
    let mut bytes = value.to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Cuts a client's bytes into requests. Holds at most [`MAX_LINE`] bytes whatever comes.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Vec<u8>,
    /// The line so far is too long and was refused: drop the rest of it.
    skipping: bool,
}

impl Decoder {
    /// For a fresh connection.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes what was read from the socket and returns the requests it completes, in order. Empty
    /// lines are passed over.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Result<Request, Refusal>> {
        let mut requests = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.extend(&rest[..end], &mut requests);
            rest = &rest[end + 1..];
            if !std::mem::take(&mut self.skipping) && !self.partial.trim_ascii().is_empty() {
                requests.push(parse(&self.partial));
            }
            self.partial.clear();
        }
        self.extend(rest, &mut requests);
        requests
    }

    fn extend(&mut self, bytes: &[u8], requests: &mut Vec<Result<Request, Refusal>>) {
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > MAX_LINE {
            self.skipping = true;
            self.partial = Vec::new();
            let message = format!("a request is at most {MAX_LINE} bytes long; send a shorter one");
            requests.push(Err(Refusal { id: None, message }));
            return;
        }
        self.partial.extend_from_slice(bytes);
    }
}

fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let value: Value = serde_json::from_slice(line).map_err(|error| Refusal {
        id: None,
        message: format!("the request is no JSON ({error}); send one object a line"),
    })?;
    let id = value.get("id").and_then(Value::as_u64);
    serde_json::from_value(value).map_err(|error| Refusal {
        id,
        message: format!(
            "the request is not understood ({error}); send {{\"id\":1,\"method\":\"show\",\"params\":{{}}}}"
        ),
    })
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
