//! Signatures of what is sent, as Standard Webhooks has them, and as GitHub does. Pure but for [`new_secret`].

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How a secret begins.
const PREFIX: &str = "whsec_";
/// Bytes of a key (Standard Webhooks, "Signature scheme").
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The key that a secret holds; none where it is no secret.
pub(super) fn key(secret: &str) -> Option<Vec<u8>> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    BYTES.contains(&key.len()).then_some(key)
}

/// Makes a secret.
pub(super) fn new_secret() -> Option<String> {
    let mut key = [0; 32];
    rustls::crypto::ring::default_provider().secure_random.fill(&mut key).ok()?;
    Some(format!("{PREFIX}{}", BASE64_STANDARD.encode(key)))
}

/// `webhook-signature`: one for each secret, so that a receiver which knows any of them is content.
pub(super) fn standard(secrets: &[&str], id: &str, timestamp: i64, body: &str) -> String {
    let one = |secret: &&str| {
        let signed = format!("{id}.{timestamp}.{body}");
        Some(format!("v1,{}", BASE64_STANDARD.encode(mac(&key(secret)?, signed.as_bytes()))))
    };
    secrets.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

/// `X-Hub-Signature-256`. The key is the text of the secret, prefix and all: that is what a receiver of this kind has in its settings.
pub(super) fn github(secret: &str, body: &str) -> String {
    format!("sha256={}", hex::encode(mac(secret.as_bytes(), body.as_bytes())))
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_vector_of_standard_webhooks() {
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let body = r#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(standard(&[SECRET], id, timestamp, body), expected);
        // While one is replaced, both sign.
        let other = new_secret().expect("a secret");
        let both = standard(&[&other, SECRET], id, timestamp, body);
        let both: Vec<&str> = both.split(' ').collect();
        assert!(
            both.len() == 2 && both[1] == expected && both[0].starts_with("v1,") && both[0] != expected,
            "{both:?}"
        );
        assert_ne!(standard(&[SECRET], id, timestamp + 1, body), expected);
    }

    /// From GitHub's documentation, "Validating webhook deliveries".
    #[test]
    fn the_vector_of_github() {
        assert_eq!(
            github("It's a Secret to Everybody", "Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn a_secret_is_one() {
        let own = new_secret().expect("a secret");
        assert_eq!(key(&own).map(|key| key.len()), Some(32));
        assert_ne!(new_secret(), Some(own));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; 65]));
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_!!!!", &long] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }
}
