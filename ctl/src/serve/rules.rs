//! `PUT /v1/rules`: the configuration becomes what a file says, for whoever has the token, and if nobody has changed it meanwhile.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request, StatusCode,
    body::{Body as _, Incoming},
    header::{AUTHORIZATION, HeaderValue, IF_MATCH},
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{
    asker::{Unanswered, Written},
    route::{Problem, Site},
};
use crate::commands::Failure;

/// Longest file in bytes.
const LONGEST: usize = 16 << 20;
/// Fewest characters of a token: 128 bits in base 64.
const TOKEN: usize = 22;
/// How long the answer to a wrong token takes: a connection has one guess a second.
const WRONG: Duration = Duration::from_secs(1);

/// Who may change things.
pub(super) struct Writers {
    token: PathBuf,
    /// One at a time.
    turn: Arc<Semaphore>,
}

impl Writers {
    /// Whoever has the token in this file. It is read again each time, so it may be changed.
    ///
    /// # Errors
    /// There is no such file, others can read it, or the token is short.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        token(path).map_err(Failure::Usage)?;
        Ok(Self { token: path.to_owned(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Carries a request out.
    pub(super) async fn put(&self, site: &Site, request: Request<Incoming>) -> Result<Written, Problem> {
        if !self.knows(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes))? {
            tokio::time::sleep(WRONG).await;
            let why = "this takes the header `Authorization: Bearer TOKEN' with the right token";
            return Err(Problem(StatusCode::UNAUTHORIZED, why.into()));
        }
        // Only now: otherwise whoever has no token could keep everybody else out.
        let busy = |_| Problem(StatusCode::SERVICE_UNAVAILABLE, "somebody else is changing the rules".into());
        let _turn = self.turn.try_acquire().map_err(busy)?;
        let expected = generation(request.headers().get(IF_MATCH).map(HeaderValue::as_bytes))?;
        let text = body(request.into_body()).await?;
        site.asker.replace(text, expected).await.map_err(|error| match error {
            Unanswered::Refused(why) => Problem(StatusCode::UNPROCESSABLE_ENTITY, why),
            other => other.into(),
        })
    }

    fn knows(&self, authorization: Option<&[u8]>) -> Result<bool, Problem> {
        let token = token(&self.token).map_err(|why| Problem(StatusCode::SERVICE_UNAVAILABLE, why))?;
        let given = authorization.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        // Digests are compared: how long that takes says nothing of the token.
        Ok(Sha256::digest(given) == Sha256::digest(token.as_bytes()))
    }
}

fn token(path: &Path) -> Result<String, String> {
    let about = |why: &dyn std::fmt::Display| format!("token file {}: {why}", path.display());
    let metadata = fs::metadata(path).map_err(|e| about(&e))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o007 != 0 {
        return Err(about(&"it has to be a file that others can't read (chmod o= FILE)"));
    }
    let text = fs::read_to_string(path).map_err(|e| about(&e))?;
    let token = text.trim();
    if token.len() < TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(about(&format_args!(
            "a token has {TOKEN} characters at least (openssl rand -base64 24)"
        )));
    }
    Ok(token.to_owned())
}

/// The generation that `If-Match` names: `"7"`, as `ETag` has it, or 7.
fn generation(if_match: Option<&[u8]>) -> Result<u64, Problem> {
    let Some(value) = if_match else {
        let why = "this takes the header `If-Match: \"GENERATION\"': GET has it as ETag";
        return Err(Problem(StatusCode::PRECONDITION_REQUIRED, why.into()));
    };
    let text = std::str::from_utf8(value).unwrap_or_default().trim();
    let number = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let wrong = || Problem(StatusCode::BAD_REQUEST, "If-Match has to be a generation".into());
    number.parse().ok().filter(|_| digits).ok_or_else(wrong)
}

async fn body(mut body: Incoming) -> Result<String, Problem> {
    let long = || Problem(StatusCode::PAYLOAD_TOO_LARGE, format!("rules have {LONGEST} bytes at most"));
    if body.size_hint().lower() > LONGEST as u64 {
        return Err(long());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let cut = |_| Problem(StatusCode::BAD_REQUEST, "the request's body is cut off".into());
        let Ok(data) = frame.map_err(cut)?.into_data() else { continue };
        if bytes.len() + data.len() > LONGEST {
            return Err(long());
        }
        bytes.extend_from_slice(&data);
    }
    String::from_utf8(bytes).map_err(|_| Problem(StatusCode::BAD_REQUEST, "rules are text".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_a_number() {
        let read = |text: &str| generation(Some(text.as_bytes())).ok();
        assert_eq!([read("7"), read("\"7\""), read(" \"0\" ")], [Some(7), Some(7), Some(0)]);
        for wrong in ["", "*", "W/\"7\"", "\"7", "-1", "+1", "7,8", "99999999999999999999"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(generation(None).unwrap_err().0, StatusCode::PRECONDITION_REQUIRED);
    }

    #[test]
    fn a_token_is_long_and_secret() {
        let path = std::env::temp_dir().join(format!("weirctl-token-{}", std::process::id()));
        let write = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Writers::open(&path)
        };
        let good = "0123456789abcdefghijkl";
        for (text, mode, ends) in [
            (good, 0o644, "can't read (chmod o= FILE)"),
            ("short\n", 0o640, "(openssl rand -base64 24)"),
            ("0123456789abcdefghijkl mnop", 0o640, "(openssl rand -base64 24)"),
        ] {
            let why = write(text, mode).err().unwrap().to_string();
            assert!(why.ends_with(ends), "{why}");
        }
        let writers = write(&format!("{good}\n"), 0o640).ok().unwrap();
        let knows = |value: Option<&str>| writers.knows(value.map(str::as_bytes)).ok();
        assert_eq!(knows(Some(&format!("Bearer {good}"))), Some(true));
        for wrong in [None, Some(""), Some("Bearer "), Some(good), Some("Bearer 0123456789abcdefghijk")] {
            assert_eq!(knows(wrong), Some(false), "{wrong:?}");
        }
        fs::remove_file(&path).unwrap();
        assert!(Writers::open(&path).is_err() && writers.knows(None).is_err());
    }
}
