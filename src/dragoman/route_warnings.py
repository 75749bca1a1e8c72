"""What routes are allowed to be and yet cannot mean: fallbacks that do not help."""

from collections.abc import Iterator

from dragoman.policy.routes import Route, Routes
from dragoman.settings import Config
from dragoman.tables import join


def route_warnings(config: Config) -> Iterator[str]:
    """Yield a line for each fallback that is no better at what it stands in for."""
    routes = Routes(config)
    for alias in routes.aliases:
        route, path = routes.resolve(alias), join("models", alias)
        if route.image_fallback and not _sees(routes.resolve(route.image_fallback)):
            what = f"{route.image_fallback} sees no images"
            yield f"{path}.image_fallback: {what}; if it does: profile = {{ sees_images = true }}"
        if route.long_prompt_fallback:
            yield from _window_warning(route, routes.resolve(route.long_prompt_fallback), path)


def _sees(route: Route) -> bool:
    return route.profile.sees_images


def _window_warning(route: Route, longer: Route, path: str) -> Iterator[str]:
    own, other = route.profile.context_window, longer.profile.context_window
    if own is not None and other is not None and other <= own:
        yield f"{path}.long_prompt_fallback: {longer.alias} takes {other:,} tokens, itself {own:,}"
