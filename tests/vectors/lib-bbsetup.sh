# Sourced by the repos.sh of cases of bitbake-setup, behind lib.sh: stand-ins of BitBake and of OpenEmbedded-Core.
bitbake_repo() { # a bitbake that only notes what it was called with
    repo bitbake
    put bin/bitbake <<'END'
#!/bin/sh
{
    for word; do printf 'arg %s\n' "$word"; done
    printf 'passthrough %s\n' "$(echo $BB_ENV_PASSTHROUGH_ADDITIONS)"
} > bitbake.called
END
    put bin/bitbake-config-build <<'END'
#!/bin/sh
# enable-fragment NAME...: of machines and of distros the last one stays.
shift
all=
for word; do
    case $word in
        machine/* | distro/*) all=$(for one in $all; do case $one in "${word%%/*}"/*) ;; *) echo "$one" ;; esac; done) ;;
    esac
    all="$all $word"
done
echo "OE_FRAGMENTS += \"$(echo $all)\"" > conf/toolcfg.conf
END
    chmod +x bin/bitbake bin/bitbake-config-build
    commit bitbake
}
oecore() { # what sets the environment up, and layer meta
    repo openembedded-core
    put oe-init-build-env <<'END'
BUILDDIR=${1:-build}
OEROOT=$(pwd)
cd "$BUILDDIR"
PATH="$OEROOT/../bitbake/bin:$PATH"
BB_ENV_PASSTHROUGH_ADDITIONS="${BB_ENV_PASSTHROUGH_ADDITIONS:-} CORE_OWN"
export PATH BUILDDIR BB_ENV_PASSTHROUGH_ADDITIONS
END
    put scripts/oe-setup-build < /dev/null
    layer meta core
    commit openembedded-core
}
