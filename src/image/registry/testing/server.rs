//! The server side of the faulty registry: one request per connection, with its faults.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Demand, Fault, Seen, State};
use crate::image::codec;

/// Says everything on a connection.
pub(crate) type Talk = fn(&mut StreamOwned<ServerConnection, TcpStream>) -> io::Result<()>;

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What the answer says of its length; nothing if it ends with the connection.
    length: Option<u64>,
    endless: bool,
    drip: Option<(usize, Duration)>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        Self { status, headers: Vec::new(), body, length, endless: false, drip: None }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.into(), value.into()));
        self
    }
}

pub(super) fn connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    talk: Option<Talk>,
    state: &Mutex<State>,
    own: &str,
) -> io::Result<()> {
    match tls {
        None => serve(stream, state, own),
        Some(config) => {
            let tls = ServerConnection::new(config).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(tls, stream);
            match talk {
                None => serve(&mut stream, state, own)?,
                Some(talk) => talk(&mut stream)?,
            }
            stream.conn.send_close_notify();
            stream.flush()
        }
    }
}

// One request per connection.
fn serve(stream: impl Read + Write, state: &Mutex<State>, own: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let Some(seen) = request(&mut stream)? else { return Ok(()) };
    let reply = {
        let mut state = state.lock().expect("a mutex");
        state.log.push(seen.clone());
        match fault_for(&mut state, &seen) {
            Some(Fault::Close) => return Ok(()),
            fault => reply(&mut state, &seen, fault, own),
        }
    };
    send(stream.get_mut(), &seen.method, &reply)
}

fn request(stream: &mut impl BufRead) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split(' ').map(String::from);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut seen = Seen { method, path, headers, body: Vec::new() };
    let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    stream.take(length).read_to_end(&mut seen.body)?;
    Ok(Some(seen))
}

fn fault_for(state: &mut State, seen: &Seen) -> Option<Fault> {
    let line = format!("{} {}", seen.method, seen.path);
    let (_, times, fault) =
        state.faults.iter_mut().find(|(part, times, _)| *times > 0 && line.contains(part.as_str()))?;
    *times -= 1;
    Some(fault.clone())
}

fn reply(state: &mut State, seen: &Seen, fault: Option<Fault>, own: &str) -> Reply {
    match fault {
        Some(Fault::Status(status, headers, body)) => {
            headers.into_iter().fold(Reply::new(status, body), |reply, (name, value)| reply.with(name, value))
        }
        Some(Fault::Redirect(to)) => Reply::new(307, "").with("location", to),
        fault => {
            let ranges = !matches!(fault, Some(Fault::IgnoreRange));
            let honest = refusal(state, seen, own).unwrap_or_else(|| route(state, seen, own, ranges));
            spoil(honest, fault)
        }
    }
}

fn spoil(mut reply: Reply, fault: Option<Fault>) -> Reply {
    match fault {
        Some(Fault::Truncate(count)) => reply.body.truncate(count),
        Some(Fault::Drip(count, pause)) => reply.drip = Some((count, pause)),
        Some(Fault::Extra(extra)) => {
            reply.body.extend(extra);
            reply.length = None;
        }
        Some(Fault::Endless) => (reply.length, reply.endless) = (None, true),
        Some(Fault::Length(length)) => reply.length = Some(length),
        Some(Fault::Header(name, value)) => reply = reply.with(name, value),
        Some(Fault::Content(bytes)) => (reply.length, reply.body) = (Some(bytes.len() as u64), bytes),
        _ => {}
    }
    reply
}

fn refusal(state: &mut State, seen: &Seen, own: &str) -> Option<Reply> {
    if !seen.path.starts_with("/v2/") {
        return None;
    }
    let shown = seen.header("authorization").unwrap_or_default();
    let challenge = match &state.demand {
        Demand::Nothing => return None,
        Demand::Basic(user, password) if shown == basic(user, password) => return None,
        Demand::Basic(..) => "Basic realm=\"here\"".to_owned(),
        Demand::Token { realm, .. } => {
            let uses = shown.strip_prefix("Bearer ").and_then(|token| state.tokens.get_mut(token));
            if let Some(uses) = uses.filter(|uses| **uses > 0) {
                *uses -= 1;
                return None;
            }
            let realm = realm.clone().unwrap_or_else(|| format!("{own}/token"));
            format!("Bearer realm=\"{realm}\",service=\"faulty\",scope=\"repository:other/thing:delete\"")
        }
    };
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#;
    Some(Reply::new(401, body).with("www-authenticate", challenge))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn token(state: &mut State, seen: &Seen) -> Reply {
    let Demand::Token { user, password, uses, life, .. } = state.demand.clone() else { return Reply::new(404, "") };
    let refresh = String::from_utf8_lossy(&seen.body).contains(&format!("refresh_token={password}"));
    let known = seen.header("authorization") == Some(&*basic(user, password)) || seen.method == "POST" && refresh;
    if !user.is_empty() && !known {
        return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
    }
    let token = format!("token{}", state.tokens.len());
    state.tokens.insert(token.clone(), uses);
    Reply::new(200, format!(r#"{{"token":"{token}","expires_in":{life}}}"#))
}

fn route(state: &mut State, seen: &Seen, own: &str, ranges: bool) -> Reply {
    let path = seen.path.split('?').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    match seen.method.as_str() {
        _ if path == "/token" => token(state, seen),
        _ if path == "/v2/" => Reply::new(200, "{}"),
        "POST" if path.ends_with("/blobs/uploads/") => Reply::new(202, "")
            .with("location", format!("{own}{}", path.replace("uploads/", "uploads/one?state=x%2Fy"))),
        "PUT" if path.contains("/blobs/uploads/") => {
            let digest = codec::digest(&seen.body).to_string();
            let good = seen.path.contains(&digest.replace(':', "%3A"));
            state.blobs.insert(digest, seen.body.clone());
            Reply::new(if good { 201 } else { 400 }, "")
        }
        "PUT" if path.contains("/manifests/") => {
            let media_type = seen.header("content-type").unwrap_or_default().to_owned();
            let digest = codec::digest(&seen.body).to_string();
            for name in [last, digest.clone()] {
                state.manifests.insert(name, (media_type.clone(), seen.body.clone()));
            }
            Reply::new(201, "").with("docker-content-digest", digest)
        }
        "GET" | "HEAD" if path.contains("/manifests/") => match state.manifests.get(&last) {
            Some((media_type, bytes)) => Reply::new(200, bytes.clone())
                .with("content-type", media_type.clone())
                .with("docker-content-digest", codec::digest(bytes).to_string()),
            None => Reply::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
        },
        "GET" | "HEAD" if path.contains("/blobs/") => match state.blobs.get(&last) {
            Some(bytes) => part(bytes, if ranges { seen.header("range") } else { None }),
            None => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        },
        _ => Reply::new(404, ""),
    }
}

fn part(bytes: &[u8], range: Option<&str>) -> Reply {
    let start = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => Reply::new(200, bytes),
        Some(start) if start >= bytes.len() => Reply::new(416, ""),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            Reply::new(206, &bytes[start..]).with("content-range", range)
        }
    }
}

fn send(stream: &mut impl Write, method: &str, reply: &Reply) -> io::Result<()> {
    let length = reply.length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
    write!(stream, "HTTP/1.1 {} Said\r\nconnection: close\r\n{length}", reply.status)?;
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    if method != "HEAD" {
        let (count, pause) = reply.drip.unwrap_or((usize::MAX, Duration::ZERO));
        for chunk in reply.body.chunks(count) {
            stream.write_all(chunk)?;
            stream.flush()?;
            thread::sleep(pause);
        }
        if reply.endless {
            // Until the client closes the connection.
            io::copy(&mut io::repeat(b'x'), stream)?;
        }
    }
    stream.flush()
}
