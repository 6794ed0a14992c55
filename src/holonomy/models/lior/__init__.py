"""lior: a language model of oscillators, geodesic retrieval and static maps, trained by free and echo phases."""
