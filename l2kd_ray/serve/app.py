"""The server: routes, the door (token, host), and the headers of every answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from l2kd_ray.errors import InputError
from l2kd_ray.serve import pages
from l2kd_ray.serve.shelf import Contents, Loaded, Shelf
from l2kd_ray.study.overview import StudyProgress

StudyPage = Callable[[StudyProgress, Loaded, pages.Parameters], str]

PORT = 8275
_COOKIE = "l2kd_token"
_SHELF = web.AppKey("shelf", Shelf)
_FORBIDDEN = "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_OWN = f"{_FORBIDDEN}; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_OF_STUDY: dict[str, StudyPage] = {
    "curves": pages.curves_page,
    "tree": pages.tree_page,
    "answers": pages.answers_page,
    "replay": pages.replay_page,
}


def serve(root: str, host: str = "127.0.0.1", port: int = PORT, token: str | None = None) -> None:
    """Serve the pages of a storage until Ctrl-C. Raises: InputError if it is not safe to."""
    app = application(root, host, token)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    words = f"The studies of {app[_SHELF].store.root}: {address} (Ctrl-C ends it)"
    try:
        web.run_app(
            app, host=host, port=port, access_log=None, print=lambda _: print(words, flush=True)
        )
    except OSError as error:
        raise InputError(
            "nothing can be served there", key="--port", got=port, expected=str(error)
        ) from None


def application(root: str, host: str = "127.0.0.1", token: str | None = None) -> web.Application:
    """The server without its socket.

    Raises: InputError where others could read the pages (`host` is not loopback) and there is no
    token, and for a storage that does not answer.
    """
    token = token or None  # an empty one, such as `--token "$UNSET"`, would let everybody in
    if not _is_loopback(host) and token is None:
        raise InputError(
            "other machines could read every study",
            key="--host",
            got=host,
            expected="127.0.0.1, or a token that readers must know",
            fix="add --token with a long random text",
        )
    shelf = Shelf(root)
    shelf.store.check_reachable()
    app = web.Application(middlewares=[_guard(token)])
    app[_SHELF] = shelf
    app.on_startup.append(_begin)
    app.add_routes(
        [
            web.get("/", _studies),
            web.get("/study/{name}", _study),
            web.get("/study/{name}/report", _report),
            *(web.get(f"/study/{{name}}/{part}", partial(_part, part=part)) for part in _OF_STUDY),
            web.get("/stage/{key}", _stage),
            web.get("/style.css", partial(_asset, make=pages.style_sheet, kind="text/css")),
            web.get("/page.js", partial(_asset, make=pages.script, kind="text/javascript")),
        ]
    )
    return app


async def _begin(app: web.Application) -> None:
    """Begin to read the storage before anybody asks."""
    await app[_SHELF].contents.get()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(token: str | None) -> Middleware:
    """Let requests in that may read, and set the headers of every answer."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_reader(request, token)
            answer = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                error.headers.update(_HEADERS)
                raise
            answer = _problem(error.status, f"{error.status} {error.reason}", error.text or "")
        except Exception as error:  # the next request may go well: a storage comes and goes
            answer = _problem(500, "This page cannot be shown", str(error))
        answer.headers.update(_HEADERS)
        answer.headers.setdefault("Content-Security-Policy", _OWN)
        return answer

    return guarded


def _problem(status: int, title: str, words: str) -> web.Response:
    text = pages.render("problem.html", title=title, words=words, again=status == 503)
    return web.Response(text=text, content_type="text/html", status=status)


def _check_reader(request: web.Request, token: str | None) -> None:
    """Raise an HTTP error for a reader without the token; without one, for a foreign host name.

    The latter would be a page of the web whose name was made to point here (DNS rebinding). A token
    in the address becomes a cookie at once, so that it does not stay in the address bar.
    """
    if token is None:
        if not _is_loopback(re.sub(r":\d+$", "", request.host).strip("[]")):
            raise web.HTTPForbidden(text="Open the page by the name localhost, or set a token.")
        return
    if given := request.query.get("token"):
        _compare(given, token)
        clean = request.rel_url.without_query_params("token")
        answer = web.HTTPSeeOther(clean)
        answer.set_cookie(_COOKIE, token, httponly=True, samesite="Strict", path="/")
        raise answer
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    _compare(request.cookies.get(_COOKIE) or bearer, token)


def _compare(given: str, token: str) -> None:
    if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
        raise web.HTTPUnauthorized(text="Add ?token=... to the address.")


async def _studies(request: web.Request) -> web.Response:
    shelf = request.app[_SHELF]
    return _page(pages.studies_page(await shelf.contents.get(), shelf.store.root))


async def _study(request: web.Request) -> web.Response:
    shelf, study = request.app[_SHELF], await _progress(request)
    loaded, problem = await _loaded(shelf, study.name)
    report = await asyncio.to_thread(shelf.report, study.name) is not None
    return _page(pages.study_page(study, loaded, problem, report=report))


async def _part(request: web.Request, *, part: str) -> web.Response:
    shelf, study = request.app[_SHELF], await _progress(request)
    loaded, problem = await _loaded(shelf, study.name)
    if loaded is None:
        waiting = pages.render("waiting.html", study=study, problem=problem, here=f"/{part}")
        return _page(waiting)
    return _page(await asyncio.to_thread(_OF_STUDY[part], study, loaded, request.query))


async def _report(request: web.Request) -> web.Response:
    """The report as its file stands in the storage; of its scripts none runs but the report's own,
    which sorts tables."""
    study = await _progress(request)
    page = await asyncio.to_thread(request.app[_SHELF].report, study.name)
    if page is None:
        raise web.HTTPNotFound(text=f"{study.name} has no report yet: l2kd report {study.name}")
    digest = base64.b64encode(hashlib.sha256(pages.report_script().encode()).digest()).decode()
    answer = web.Response(body=page, content_type="text/html", charset="utf-8")
    answer.headers["Content-Security-Policy"] = (
        f"{_FORBIDDEN}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    return answer


async def _stage(request: web.Request) -> web.Response:
    shelf, key = request.app[_SHELF], request.match_info["key"]
    kind = (await _contents(request)).listing.finished.get(key)
    manifest = None if kind is None else await asyncio.to_thread(shelf.store.manifest, kind, key)
    if manifest is None:
        raise web.HTTPNotFound(text="No finished stage of this storage has this key.")
    return _page(pages.stage_page(manifest))


async def _asset(_: web.Request, *, make: Callable[[], str], kind: str) -> web.Response:
    return web.Response(text=make(), content_type=kind)


async def _contents(request: web.Request) -> Contents:
    contents = await request.app[_SHELF].contents.get()
    if contents is None:
        raise web.HTTPServiceUnavailable(text="The storage is being read; try again in a moment.")
    return contents


async def _progress(request: web.Request) -> StudyProgress:
    """The study that the address names. No name that the storage does not list goes any further."""
    name = request.match_info["name"]
    for study in (await _contents(request)).studies:
        if study.name == name:
            return study
    raise web.HTTPNotFound(text="No study of this storage has this name.")


async def _loaded(shelf: Shelf, name: str) -> tuple[Loaded | None, str]:
    """The study, None while it is being read, and why it cannot be read."""
    try:
        return await shelf.loaded(name).get(), ""
    except (InputError, OSError, ValueError) as error:  # such as data that are not on this machine
        return None, str(error)


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html")
