/* spark.h - a curve as one word: the whole history of a number in up to SPARK_MAX characters. */
#ifndef SPARK_H
#define SPARK_H

enum { SPARK_MAX = 24, SPARK_TEXT = 3 * SPARK_MAX + 1 };

typedef struct {
    double mean[SPARK_MAX]; /* each of `per` values, the last of so many as there are */
    int n, per, filled;
} Spark; /* {0} is empty */

void spark_add(Spark *s, double v); /* a value that is not finite is passed over */
/* From the least to the greatest of them, in eight heights; "" when there are none. */
void spark_text(char out[SPARK_TEXT], const Spark *s, int utf8);

#endif
