"""Pictures show what they say: ellipses in the right place, densities, errors, grids."""

import matplotlib
import numpy as np
import pytest

from gpstoken_jax.tokens.visualize import (
    draw_density,
    draw_error,
    draw_features,
    draw_gaussians,
    draw_outline,
    gaussian_contours,
    image_grid,
    to_uint8,
    token_colours,
    token_density,
)

GREY = np.zeros((33, 33, 3), np.float32)


def _token(sigma_x=0.2, sigma_y=0.2, rho=0.0, mu_x=0.0, mu_y=0.0):
    return np.array([[sigma_x, sigma_y, rho, mu_x, mu_y]], np.float32)


def _even_grid(n: int) -> np.ndarray:
    """The tokens of an image cut into n x n equal squares."""
    mu_x, mu_y = np.meshgrid(*[(np.arange(n) * 2 + 1) / n - 1] * 2)
    sigma = np.full(n * n, 2 / 3 / n)
    return np.stack([sigma, sigma, 0 * sigma, mu_x.ravel(), mu_y.ravel()], -1)


def _touched(picture: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that a drawing changed."""
    return np.argwhere((picture != plain).any(-1))


def test_eight_bit_images():
    images = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]).reshape(1, 1, 6, 1)
    np.testing.assert_array_equal(to_uint8(images).ravel(), [0, 0, 128, 191, 255, 255])


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.6])
@pytest.mark.parametrize("num_sigma", [1.0, 3.0])
def test_contours_lie_at_the_distance_asked_for(rho, num_sigma):
    geometry = _token(0.3, 0.1, rho, 0.2, -0.4)
    dx, dy = (gaussian_contours(geometry, num_sigma)[0] - geometry[0, 3:]).T / [[0.3], [0.1]]
    distance = (dx**2 - 2 * rho * dx * dy + dy**2) / (1 - rho**2)
    np.testing.assert_allclose(distance, num_sigma**2, rtol=1e-4)


def test_an_ellipse_is_drawn_where_the_gaussian_is():
    """Centre of the first pixel plus a radius of 8 pixels on a 33-pixel image, enlarged 4 times."""
    geometry = _token(sigma_x=0.5, sigma_y=0.25, mu_x=-1, mu_y=0)
    plain = draw_gaussians(GREY, np.zeros((0, 5)), min_side=132)
    drawn = draw_gaussians(GREY, geometry, min_side=132, line_width=1)
    assert drawn.shape == plain.shape == (132, 132, 3)
    rows, columns = _touched(drawn, plain).T
    assert abs(columns.max() - (0.5 + 8) * 4) <= 2
    assert abs(rows.max() - (16.5 + 4) * 4) <= 2 and abs(rows.min() - (16.5 - 4) * 4) <= 2
    np.testing.assert_array_equal(drawn[60:72, 8:24], plain[60:72, 8:24])  # not filled


@pytest.mark.parametrize("rho", [-0.9, 0.9])
def test_correlation_tilts_the_ellipse(rho):
    """x grows to the right and y downwards: with rho > 0 the ellipse runs down to the right."""
    plain = draw_gaussians(GREY, np.zeros((0, 5)))
    rows, columns = _touched(draw_gaussians(GREY, _token(0.4, 0.4, rho)), plain).T
    assert np.sign(np.corrcoef(rows, columns)[0, 1]) == np.sign(rho)


def test_an_image_is_enlarged_by_whole_pixels():
    image = np.random.default_rng(0).uniform(-1, 1, (5, 7, 3)).astype(np.float32)
    picture = draw_gaussians(image, np.zeros((0, 5)), min_side=20, fade=0)
    np.testing.assert_array_equal(picture, to_uint8(image).repeat(4, 0).repeat(4, 1))


def test_given_colours_are_used():
    plain = draw_gaussians(GREY, np.zeros((0, 5)))
    drawn = draw_gaussians(GREY, _token(), colours=np.array([[255, 0, 255]]), line_width=3)
    assert (drawn == [255, 0, 255]).all(-1).any() and not (plain == [255, 0, 255]).all(-1).any()


@pytest.mark.parametrize(
    "geometry", [np.zeros((3, 4)), np.zeros((2, 3, 5)), np.full((1, 5), np.nan)]
)
def test_what_is_no_geometry_is_refused(geometry):
    with pytest.raises(ValueError, match=r"finite \[L, 5\]"):
        draw_gaussians(GREY, geometry)


def test_many_degenerate_tokens_can_be_drawn():
    geometry = np.random.default_rng(0).uniform(-1, 1, (500, 5))
    geometry[:, :2] = np.abs(geometry[:, :2]) * 1e-6
    geometry[:250, 2] = 1
    assert draw_gaussians(GREY, geometry, min_side=64).shape == (66, 66, 3)


def test_colours_tell_small_tokens_from_large():
    small, large, same = token_colours(np.concatenate([_token(0.01), _token(0.9), _token(0.9)]))
    assert small[0] > small[2] and large[2] > large[0]
    np.testing.assert_array_equal(large, same)


def test_an_even_spread_has_even_density():
    density = token_density(_even_grid(8), (64, 64))
    np.testing.assert_allclose(density.mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(density[16:-16, 16:-16], 1, atol=0.1)


def test_density_is_higher_where_tokens_are():
    crowd = _even_grid(8)
    crowd[:, 3:] = crowd[:, 3:] / 2 - 0.5  # all in the top left quarter
    density = token_density(crowd, (32, 48))
    assert density[:16, :24].mean() > 3 and density[20:, 30:].max() < 0.1
    picture = draw_density(crowd, (32, 48))
    assert picture.shape == (32, 48, 3) and picture[8, 12].sum() > 300 > picture[-1, -1].sum()


def test_equal_features_have_equal_colours():
    maps = np.zeros((2, 4, 4, 8))
    maps[0, :2], maps[0, 2:], maps[1, 0] = 1.0, -1.0, np.arange(8)
    picture = draw_features(maps)
    assert picture.shape == (2, 4, 4, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4
    np.testing.assert_array_equal(draw_features(maps * 5), picture)


def test_the_first_component_is_the_strongest():
    maps = np.random.default_rng(0).normal(size=(1, 16, 16, 6)) * [0.1, 0.1, 5, 0.1, 1, 0.1]
    red = draw_features(maps)[0, ..., 0].astype(float)
    assert abs(np.corrcoef(red.ravel(), maps[0, ..., 2].ravel())[0, 1]) > 0.95


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_leave_colours_grey(channels):
    picture = draw_features(np.random.default_rng(0).normal(size=(1, 4, 4, channels)))
    assert (picture[..., channels:] == 128).all() and np.ptp(picture[..., 0]) > 100


def test_errors_run_from_black_to_the_limit():
    image = np.zeros((2, 4, 4, 3), np.float32)
    changed = image.copy()
    changed[0] += 0.5  # a quarter of the range from -1 to 1
    colours = matplotlib.colormaps["inferno"]([0.0, 0.5, 1.0], bytes=True)[:, :3]
    np.testing.assert_array_equal(draw_error(image, changed)[:, 0, 0], colours[[2, 0]])
    np.testing.assert_array_equal(draw_error(image, changed, max_error=0.5)[0, 0, 0], colours[1])


def test_a_grid_keeps_order_and_enlarges_small_pictures():
    first = [np.full((4, 4, 3), 10 * i, np.uint8) for i in range(1, 4)]
    second = [np.full((2, 1, 3), -1.0, np.float32), np.ones((4, 4, 3), np.float32)]
    grid = image_grid([first, second], gap=1)
    assert grid.shape == (9, 14, 3)
    assert [grid[0, 0, 0], grid[0, 5, 0], grid[0, 10, 0]] == [10, 20, 30]
    assert (grid[5:, 1:3] == 0).all() and (grid[4] == 255).all() and (grid[5:, 3:] == 255).all()
    np.testing.assert_array_equal(image_grid(np.stack([first]), gap=1), grid[:4])


@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_grid_of_nothing_is_refused(rows):
    with pytest.raises(ValueError, match="at least one picture"):
        image_grid(rows)


def test_titles_stand_above_their_columns():
    pictures = [np.zeros((40, 120, 3), np.uint8)] * 2
    plain = image_grid([pictures])
    titled = image_grid([pictures], titles=["left", "a title much too long for one column"])
    above = titled[: len(titled) - len(plain)]
    np.testing.assert_array_equal(titled[len(above) :], plain)
    for column in (above[:, :120], above[:, 124:]):
        assert column.min() < 100 and (column[0] == 255).all()
        assert (column[:, [0, -1]] == 255).all()


def test_an_outline_follows_the_inside_of_a_mask():
    inside = np.zeros((16, 16), bool)
    inside[4:12, 8:] = True  # up to the right edge
    picture = draw_outline(np.zeros((32, 32, 3), np.float32), inside, line_width=1)
    changed = (picture != 128).any(-1)
    assert changed[8:24, 16:].any() and not changed[:8].any() and not changed[:, :16].any()
    assert (picture[8, 16:] == 255).all() and (picture[8:24, -1] == 255).all()
    assert (picture[9, 18:-2] == 0).all() and not changed[11:21, 19:29].any()
